"""Automatic bits as people ask for them: a budget, or a contract and no budget."""
import json
import shutil

import pytest
from conftest import BAD_INPUT, CONTRACT, DEMO, RESOURCES, TINY, USAGE

FEW = ("--calibration-samples", 16, "--calibration-length", 128)
QUICK = (*FEW, "--verify", "none", "--quiet")


@pytest.fixture(scope="session")
def scores(tmp_path_factory):
    return tmp_path_factory.mktemp("scores") / "demo.json"


def made(autoglm, out, *options):
    done = autoglm("compress", DEMO, "-o", out, *options)
    assert done.code == 0, done.err
    return json.loads((out / "report.json").read_text())


def test_a_budget_in_bits_is_spent_and_not_exceeded(autoglm, tmp_path, scores):
    report = made(autoglm, tmp_path / "out", *QUICK, "--target-bits", 5, "--scores", scores)
    bits = 8 * report["measured"]["output_bytes"] / report["source"]["parameters"]
    assert 4.95 <= bits <= 5
    chosen = report["automatic"]
    assert chosen["profile"] == "transformers" and chosen["bytes"] == report["measured"]["output_bytes"]
    schemes = {entry["name"]: entry["scheme"] for entry in chosen["formats"]}
    assert schemes["model.embed_tokens"] == "keep" and len(set(schemes.values())) > 2
    assert report["measured"]["peak_rss_bytes"] <= report["predicted"]["peak_rss_bytes"]


def test_another_budget_takes_no_new_measurement(autoglm, tmp_path, scores):
    first = made(autoglm, tmp_path / "first", *QUICK, "--target-bits", 6, "--scores", scores)
    kept = scores.stat().st_mtime_ns
    second = made(autoglm, tmp_path / "second", *QUICK, "--ratio", "9x", "--profile", "any", "--scores", scores)
    assert scores.stat().st_mtime_ns == kept
    assert first["automatic"]["estimated_kl"] < second["automatic"]["estimated_kl"]
    # The file makes no difference to what is written.
    third = made(autoglm, tmp_path / "third", *QUICK, "--ratio", "9", "--profile", "any")
    assert third["automatic"] == second["automatic"]
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("second", "third")]
    assert written[0] == written[1]


def test_a_budget_in_bytes_counts_the_file(autoglm, tmp_path, scores):
    made(autoglm, tmp_path / "out", *QUICK, "--target-size", "4MB", "--profile", "any", "--scores", scores)
    size = (tmp_path / "out/model.safetensors").stat().st_size
    assert 0.98 * 4_000_000 <= size <= 4_000_000


def test_a_small_budget_gives_up_the_embedding_and_says_so(autoglm, tmp_path, scores):
    out = tmp_path / "out"
    report = made(autoglm, out, *QUICK, "--ratio", 12, "--scores", scores)
    assert report["automatic"]["profile"] == "any" and any("transformers" in text for text in report["warnings"])
    assert 4 * report["source"]["parameters"] / report["measured"]["output_bytes"] >= 12
    refused = tmp_path / "refused"
    autoglm("compress", DEMO, "-o", refused, *QUICK, "--ratio", 12, "--profile", "transformers", "--scores", scores).refused(
        USAGE, "transformers", "smallest", "bits per parameter")
    assert not refused.exists()


def test_the_profile_of_vllm_has_four_and_eight_bits_alone(autoglm, tmp_path, scores):
    report = made(autoglm, tmp_path / "out", *QUICK, "--target-bits", 8, "--profile", "vllm", "--scores", scores)
    assert "int8" in {entry["scheme"] for entry in report["automatic"]["formats"]}  # the most usual of them
    for entry in report["automatic"]["formats"]:
        assert entry["scheme"] == "keep" or entry["scheme"].split("-")[0] in ("int4", "int8"), entry


@pytest.fixture
def without_tasks(tmp_path):
    """The demo model with two short texts in place of its tasks, so that measuring on all of them takes a second."""
    folder = tmp_path / "demo"
    shutil.copytree(DEMO, folder, ignore=shutil.ignore_patterns("tasks"))
    lines = [json.loads(line) for line in (DEMO / "tasks/train.jsonl").read_text().splitlines()[:400]]
    texts = ["\n".join((line["user"], line["think"], line["answer"])) for line in lines]
    (tmp_path / "calibration.txt").write_text("\n".join(texts[:360]))
    (tmp_path / "held_out.txt").write_text("\n".join(texts[360:]))
    return (folder, "-o", tmp_path / "out", *FEW, "--quiet", "-q", "auto", "--method", "rtn", "--verify", "full",
            "--calibration-dataset", tmp_path / "calibration.txt", "--eval-dataset", tmp_path / "held_out.txt")


def test_a_contract_finds_the_smallest_that_keeps_it(autoglm, tmp_path, without_tasks):
    done = autoglm("compress", *without_tasks, "--max-kl", 0.05, "--profile", "any")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out/report.json").read_text())
    attempts = report["automatic"]["attempts"]
    contract = report["evaluation"]["contract"]
    assert contract["holds"] and contract["measure"] == "KL divergence" and contract["loss"] <= 0.05
    held = [a["bytes"] for a in attempts if a["holds"]]
    failed = [a["bytes"] for a in attempts if not a["holds"]]
    assert min(held) == report["measured"]["output_bytes"] and failed
    assert min(held) <= 1.05 * max(b for b in failed if b < min(held))


def test_a_contract_that_nothing_keeps_writes_nothing(autoglm, tmp_path, without_tasks):
    held_out = tmp_path / "held_out.txt"
    held_out.write_text(held_out.read_text()[:300])  # too little for so small a share to be certain
    autoglm("compress", *without_tasks, "--max-loss", "0%").refused(
        CONTRACT, "no size that was tried keeps the contract", "--verify full")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options, words", [
    (("-q", "auto"), ("needs a budget or a contract", "--target-bits")),
    (("-q", "int4", "--target-bits", 4), ("contradicts --quantization",)),
    (("--target-bits", 4, "--ratio", 8), ("contradict one another",)),
    (("--profile", "any"), ("--profile", "budget")),
    (("--target-bits", 4, "--profile", "vlm"), ("unknown profile", "vllm")),
    (("-q", "auto", "--max-loss", "1%", "--max-kl", 0.1), ("two contracts",)),
    (("-q", "auto", "--max-kl", 0.1, "--verify", "none"), ("--max-kl", "--verify none")),
    (("--target-bits", 0.5), ("smallest",)),
])
def test_contradictions(autoglm, tmp_path, options, words):
    extra = () if "--verify" in options else ("--verify", "fast")
    autoglm("compress", DEMO, "-o", tmp_path / "out", "--quiet", "--calibration-samples", 4, "--calibration-length", 64, *options, *extra
            ).refused(USAGE, *words)
    assert not (tmp_path / "out").exists()


def test_a_budget_needs_text_and_weights(autoglm, tmp_path):
    autoglm("compress", TINY / "glm4", "-o", tmp_path / "out", "--target-bits", 4).refused(USAGE, "calibration text")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_bytes((DEMO / "config.json").read_bytes())
    autoglm("compress", tmp_path / "model", "--target-bits", 4, "--dry-run").refused(USAGE, "weights")


def test_scores_that_cannot_be_used(autoglm, tmp_path, scores):
    made(autoglm, tmp_path / "first", *QUICK, "--target-bits", 6, "--scores", scores)
    broken = tmp_path / "broken.json"
    broken.write_text(scores.read_text()[:500])
    autoglm("compress", DEMO, "-o", tmp_path / "out", *QUICK, "--target-bits", 6, "--scores", broken).refused(
        BAD_INPUT, "broken.json", "interrupted", "--scores")
    assert broken.read_text() == scores.read_text()[:500]
    for change, word in [(lambda group: group["formats"][0].pop("bytes"), "bytes"), (lambda group: group["modules"].clear(), "no sense"),
                         (lambda group: group["formats"][0].update(scheme="int9"), "no sense")]:
        other = json.loads(scores.read_text())
        change(other["groups"][0])
        broken.write_text(json.dumps(other))
        autoglm("compress", DEMO, "-o", tmp_path / "out", *QUICK, "--target-bits", 6, "--scores", broken).refused(
            BAD_INPUT, "broken.json", word)
    autoglm("compress", DEMO, "-o", tmp_path / "out", *QUICK, "--target-bits", 6, "--scores", scores, "--seed", 5).refused(
        USAGE, "demo.json", "another model, text, seed")
    autoglm("compress", DEMO, "-o", tmp_path / "out", *QUICK, "--target-bits", 6, "--scores", tmp_path / "no/such.json").refused(
        RESOURCES, "such.json")
    autoglm("compress", DEMO, "-o", tmp_path / "first", "--overwrite", *QUICK, "--target-bits", 6, "--scores", tmp_path / "first/s.json"
            ).refused(USAGE, "in use")


def test_memory_for_sensitivities_is_bounded_beforehand(autoglm, tmp_path):
    autoglm("compress", DEMO, "-o", tmp_path / "out", *QUICK, "--target-bits", 4, "--max-ram", "100M").refused(
        RESOURCES, "sensitivities", "100")


def test_sensitivities_keep_to_the_memory_foreseen(autoglm, tmp_path):
    options = ("--calibration-samples", 32, "--calibration-length", 128, "--verify", "none", "--quiet", "--method", "rtn")
    report = made(autoglm, tmp_path / "out", *options, "--target-bits", 6)
    assert report["automatic"]["tokens"] == 4096  # the most that are used
    assert report["measured"]["peak_rss_bytes"] <= report["predicted"]["peak_rss_bytes"]


def test_what_the_recipe_names_is_no_choice(autoglm, tmp_path):
    report = made(autoglm, tmp_path / "out", *QUICK, "--target-bits", 7, "--profile", "any", "--embedding", "keep", "--head", "int4")
    names = {entry["name"] for entry in report["automatic"]["formats"]}
    assert not names & {"model.embed_tokens", "lm_head"} and len(names) == 32
    assert 6.9 <= 8 * report["measured"]["output_bytes"] / report["source"]["parameters"] <= 7


def test_floats_have_nothing_to_train(autoglm, tmp_path):
    report = made(autoglm, tmp_path / "out", *QUICK, "-q", "fp16", "--effort", "balanced")
    assert any("nothing to train" in text for text in report["warnings"])


def test_the_command_line_comes_before_the_file(autoglm, tmp_path, scores):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("target_bits: 4\n")
    done = autoglm("compress", DEMO, *QUICK, "--config", recipe, "-q", "int8", "--dry-run", "--json")
    assert done.code == 0 and "int8" in {module["scheme"] for module in json.loads(done.out)["modules"]}, done.err
    recipe.write_text("scheme: int4\n")
    done = autoglm("compress", DEMO, *QUICK, "--config", recipe, "--target-bits", 6, "--scores", scores, "--dry-run", "--json")
    assert done.code == 0 and len({module["scheme"] for module in json.loads(done.out)["modules"]}) > 3, done.err


def test_a_dry_run_plans_what_was_chosen(autoglm, tmp_path, scores):
    done = autoglm("compress", DEMO, *QUICK, "--target-bits", 6, "--scores", scores, "--dry-run", "--json")
    assert done.code == 0, done.err
    plan = json.loads(done.out)
    assert 5.9 <= 8 * plan["bytes_after"] / sum(module["parameters"] for module in plan["modules"]) <= 6
    assert len({module["scheme"] for module in plan["modules"]}) > 3


@pytest.mark.parametrize("effort", ["balanced", "best"])
def test_effort_buys_quality(autoglm, tmp_path, effort):
    options = ("-q", "int3", "--calibration-samples", 16, "--calibration-length", 128, "--verify", "none", "--quiet")
    report = made(autoglm, tmp_path / "out", *options, "--effort", effort, "--reconstruct", 3, "--refine", 1)
    assert {entry["method"] for entry in report["passes"]} == {"gptaq"}
    assert report["recipe"]["reconstruct"] == 3 and report["recipe"]["refine"] == 1
    assert [block["layer"] for block in report["reconstruction"]] == list(range(8))
    for block in report["reconstruction"]:
        assert block["kept"] == (block["error_after"] < block["error_before"])
    assert any(block["kept"] for block in report["reconstruction"])
    assert report["measured"]["peak_rss_bytes"] <= report["predicted"]["peak_rss_bytes"]


def test_reconstruction_spills_where_memory_is_short(autoglm, tmp_path):
    options = ("-q", "int3", "--calibration-samples", 64, "--calibration-length", 256, "--verify", "none", "--quiet", "--method", "rtn",
               "--reconstruct", 2)
    plenty = made(autoglm, tmp_path / "plenty", *options)
    bound = plenty["predicted"]["peak_rss_bytes"] - (20 << 20)
    short = made(autoglm, tmp_path / "short", *options, "--max-ram", bound)
    assert short["predicted"]["peak_rss_bytes"] <= bound and short["measured"]["peak_rss_bytes"] <= bound
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("plenty", "short")]
    assert written[0] == written[1]


def test_efforts_and_their_words(autoglm, tmp_path):
    autoglm("compress", DEMO, "-o", tmp_path / "out", "--effort", "bets").refused(USAGE, "--effort", "best")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("effort: balanced\nrefine: 0\nreconstruct: 0\n")
    done = autoglm("compress", DEMO, "--config", recipe, "--dry-run", "--json")
    assert done.code == 0, done.err
    assert {module["method"] for module in json.loads(done.out)["modules"]} == {"", "gptaq"}
    recipe.write_text("effort: none\n")
    autoglm("compress", DEMO, "--config", recipe, "--dry-run").refused(USAGE, "effort", "balanced")
