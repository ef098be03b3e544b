// The report for people: the verdict, report.md and the terminal's table.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>

#include "core/base/memory.h"
#include "core/base/progress.h"
#include "core/eval/report.h"
#include "core/eval/table.h"

namespace autoglm::eval {
namespace {

constexpr size_t kWorstTensors = 10;
constexpr size_t kListedNames = 20;

const std::string kNone = "–";

/// A member of what may not have been measured; nullptr where it was not.
template <typename T>
const T* get(const std::optional<T>& value) {
  return value ? &*value : nullptr;
}

template <typename T, typename Format>
std::string or_none(const T* value, Format format) {
  return value != nullptr ? format(*value) : kNone;
}
template <typename T, typename Format>
std::string or_none(const std::optional<T>& value, Format format) {
  return or_none(get(value), format);
}

/// Four significant digits; small numbers in scientific notation.
std::string number(double value) {
  if (!std::isfinite(value)) return kNone;
  if (value != 0 && std::abs(value) < 1e-3) return fmt::format("{:.2e}", value);
  return fmt::format("{:.4g}", value);
}

std::string ratio(double value) { return value > 0 ? fmt::format("{:.1f}×", value) : kNone; }
std::string milliseconds(double value) { return fmt::format("{:.2f}", value); }
std::string percent(double share) { return format_percent(share, 1); }

/// "12.3 s" below a minute, then as everywhere.
std::string duration(double seconds) {
  return seconds < 60 ? fmt::format("{:.1f} s", seconds) : format_duration(seconds);
}

/// Text from files inside Markdown: in backticks, so that nothing in it is markup.
std::string code(std::string_view text) {
  std::string out = "`";
  for (const char c : text) out += static_cast<unsigned char>(c) < 0x20 || c == '`' ? '?' : c;
  return out + "`";
}

/// One line of text from files or messages, with what would start markup or HTML escaped.
std::string plain(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x20) {
      out += ' ';
      continue;
    }
    if (std::string_view("\\`*_<>[]|#").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

struct Row {
  const char* name;
  std::string source;
  std::string compressed;
};

/// What is set side by side, for one compressed model; rows about which nothing is known say so with a dash.
std::vector<Row> rows_of(const Report& report) {
  const Evaluation* e = get(report.evaluation);
  const Divergence* divergence = e ? get(e->divergence) : nullptr;
  const TaskScores* tasks = e ? get(e->tasks) : nullptr;
  const Latency* latency = e ? get(e->latency) : nullptr;
  const Sizes* sizes = e ? get(e->sizes) : nullptr;
  const auto bytes = [](int64_t n) { return n > 0 ? format_bytes(n) : kNone; };

  std::vector<Row> rows;
  rows.push_back({"size", report.source ? bytes(report.source->file_bytes) : kNone, bytes(report.artifact.file_bytes)});
  rows.push_back({"smaller by", "", sizes ? ratio(sizes->ratio) : kNone});
  rows.push_back(
      {"bits per weight", "", or_none(sizes, [](const Sizes& s) { return fmt::format("{:.2f}", s.bits_per_weight); })});
  rows.push_back({"bits per quantized weight", "", or_none(sizes, [](const Sizes& s) {
                    return s.quantized_parameters > 0 ? fmt::format("{:.2f}", s.quantized_bits_per_weight) : kNone;
                  })});
  rows.push_back({"KL, mean (nats)", "", or_none(divergence, [](const Divergence& d) { return number(d.kl_mean); })});
  rows.push_back(
      {"KL, 99th percentile", "", or_none(divergence, [](const Divergence& d) { return number(d.kl_p99); })});
  rows.push_back(
      {"top-1 agreement", "", or_none(divergence, [](const Divergence& d) { return percent(d.top1_agreement); })});
  rows.push_back({"perplexity", or_none(divergence, [](const Divergence& d) { return number(d.perplexity_source); }),
                  divergence ? number(divergence->perplexity) : or_none(e ? get(e->perplexity) : nullptr, number)});
  rows.push_back({"task accuracy", or_none(tasks ? tasks->source_accuracy() : std::optional<double>(), percent),
                  or_none(tasks, [](const TaskScores& t) { return percent(t.accuracy()); })});
  rows.push_back({"same task answers", "", or_none(tasks ? get(tasks->agreement) : nullptr, percent)});
  rows.push_back({"ms per token",
                  or_none(latency ? get(latency->source_milliseconds_per_token) : nullptr, milliseconds),
                  or_none(latency, [](const Latency& l) { return milliseconds(l.milliseconds_per_token); })});
  rows.push_back({"time to compress", "", or_none(report.measured, [](const Cost& c) { return duration(c.seconds); })});
  rows.push_back({"peak memory", "", or_none(report.measured, [&](const Cost& c) { return bytes(c.peak_rss_bytes); })});
  rows.push_back({"time to verify", "", or_none(e, [](const Evaluation& v) { return duration(v.seconds); })});
  return rows;
}

void add_list(std::string& out, std::string_view title, const std::vector<std::string>& names) {
  if (names.empty()) return;
  out += fmt::format("{} ({}):", title, names.size());
  for (size_t i = 0; i < std::min(names.size(), kListedNames); ++i) out += (i == 0 ? " " : ", ") + code(names[i]);
  if (names.size() > kListedNames) out += fmt::format(", and {} more (see report.json)", names.size() - kListedNames);
  out += ".\n\n";
}

/// One column for the source, as the first report that has one knows it, and one for each report.
Table side_by_side(std::span<const Report> reports) {
  const auto with_source =
      std::find_if(reports.begin(), reports.end(), [](const Report& r) { return r.source.has_value(); });
  const Report& first = with_source == reports.end() ? reports.front() : *with_source;
  const auto title = [](const std::string& storage, const char* otherwise) {
    return storage.empty() ? std::string(otherwise) : storage;
  };
  const bool has_source = with_source != reports.end();
  std::vector<std::string> header{""};
  if (has_source) header.push_back(title(first.source->storage, "source"));
  std::vector<std::vector<Row>> columns;
  for (const Report& report : reports) {
    header.push_back(title(report.artifact.storage, has_source ? "compressed" : "model"));
    columns.push_back(rows_of(report));
  }
  Table table(std::move(header));
  const std::vector<Row> source = rows_of(first);
  for (size_t r = 0; r < source.size(); ++r) {
    std::vector<std::string> cells{source[r].name};
    bool known = false;
    if (has_source) {
      known = !source[r].source.empty() && source[r].source != kNone;
      cells.push_back(source[r].source);
    }
    for (const auto& column : columns) {
      known = known || column[r].compressed != kNone;
      cells.push_back(column[r].compressed);
    }
    if (known) table.add_row(std::move(cells));
  }
  return table;
}

void add_sizes(std::string& out, const Sizes& sizes) {
  Table table({"part", "parameters", "source", "compressed", "of it scales", "bits per weight"});
  for (const PartSize& part : sizes.parts) {
    table.add_row({part.part, std::to_string(part.parameters),
                   part.source_bytes > 0 ? format_bytes(part.source_bytes) : kNone, format_bytes(part.bytes),
                   format_bytes(part.scale_bytes), fmt::format("{:.2f}", part.bits_per_weight)});
  }
  out += "## Where the bytes are\n\n" + table.markdown();
  out += fmt::format("\nAll parameters in 16 bits would be {:.2f}× as large, in 32 bits {:.2f}×.\n\n",
                     sizes.ratio_16_bit, sizes.ratio_32_bit);
}

void add_tasks(std::string& out, const TaskScores& tasks) {
  const auto of = [](int64_t correct, int64_t count) { return fmt::format("{}/{}", correct, count); };
  Table table({"tasks", "source", "compressed"});
  table.add_row({"all", or_none(tasks.source_correct, [&](int64_t n) { return of(n, tasks.count); }),
                 of(tasks.correct, tasks.count)});
  for (const TaskGroup& group : tasks.groups) {
    table.add_row({group.name, or_none(group.source_correct, [&](int64_t n) { return of(n, group.count); }),
                   of(group.correct, group.count)});
  }
  out += "## Tasks\n\n" + table.markdown() + "\n";
}

void add_worst(std::string& out, const WeightDiff& diff) {
  std::vector<const TensorDiff*> worst;
  for (const TensorDiff& tensor : diff.tensors) worst.push_back(&tensor);
  const size_t shown = std::min(worst.size(), kWorstTensors);
  std::partial_sort(worst.begin(), worst.begin() + static_cast<std::ptrdiff_t>(shown), worst.end(),
                    [](const TensorDiff* a, const TensorDiff* b) {
                      return a->relative_mse != b->relative_mse ? a->relative_mse > b->relative_mse : a->name < b->name;
                    });
  if (shown > 0) {
    Table table({"tensor", "stored as", "relative MSE", "MSE", "cosine"});
    for (size_t i = 0; i < shown; ++i) {
      table.add_row({code(worst[i]->name), worst[i]->scheme, number(worst[i]->relative_mse), number(worst[i]->mse),
                     fmt::format("{:.6f}", worst[i]->cosine)});
    }
    out += "## Tensors that changed most\n\n" + table.markdown() + "\n";
  }
  out += fmt::format("{} tensors changed, {} have the source's values", diff.tensors.size(), diff.identical);
  if (diff.compared_share < 1) out += fmt::format("; {} of the numbers were compared", percent(diff.compared_share));
  out += ".\n\n";
  add_list(out, "Stored as floats, with other values than in the source", diff.changed);
  add_list(out, "**In the source, but in no form in the artifact**", diff.missing);
  add_list(out, "In the artifact, but from nothing in the source", diff.extra);
}

std::string describe(const Conditions& c) {
  std::string out = fmt::format("{}, {} thread{}", plain(c.cpu), c.threads, c.threads == 1 ? "" : "s");
  if (!c.device.empty()) out += fmt::format(", device {}", plain(c.device));
  if (c.engine != "torch") out += fmt::format(", run by the {}", plain(c.engine));
  if (!c.compute.empty()) out += fmt::format(", computed in {}", plain(c.compute));
  return out + fmt::format(", seed {}", c.seed);
}

std::string describe(const TextUse& t) {
  return fmt::format("{} ({} sequences of up to {} tokens, seed {})", plain(t.source), t.sequences, t.length, t.seed);
}

void add_method(std::string& out, const Report& report) {
  out += "## How it was made and measured\n\n";
  if (!report.program.empty()) out += "- Program: " + plain(report.program) + "\n";
  if (report.source) out += "- Source: " + code(report.source->path) + "\n";
  if (report.conditions) out += "- Compressed on: " + describe(*report.conditions) + "\n";
  if (const auto& c = report.calibration) {
    out += "- Calibration text: " + describe(*c) + "\n";
    if (c->set_sha256) out += "  - a calibration set, SHA-256 " + code(*c->set_sha256) + "\n";
  }
  const auto cost = [](const Cost& c) {
    return fmt::format("{} peak memory, {} written, {}", format_bytes(c.peak_rss_bytes), format_bytes(c.output_bytes),
                       duration(c.seconds));
  };
  if (report.predicted) out += "- Predicted: " + cost(*report.predicted) + "\n";
  if (report.measured) out += "- Needed: " + cost(*report.measured) + "\n";
  for (const StageTime& stage : report.stages)
    out += fmt::format("  - {}: {}\n", plain(stage.name), duration(stage.seconds));
  if (const auto& a = report.automatic) {
    out += fmt::format("- Formats chosen for {} within {}, profile {}: estimated KL {:.5f} before compensation\n",
                       format_bytes(a->bytes), format_bytes(a->budget_bytes), plain(a->profile), a->estimated_kl);
  }
  if (report.automatic && report.automatic->swaps) {
    const Swaps& s = *report.automatic->swaps;
    out += fmt::format("- Swapped formats by {} measurements: KL {:.5f} → {:.5f} before compensation\n", s.measurements,
                       s.kl_before, s.kl_after);
  }
  if (!report.reconstruction.empty()) {
    double before = 0, after = 0;
    for (const BlockReconstruction& block : report.reconstruction) {
      before += block.error_before;
      after += block.kept ? block.error_after : block.error_before;
    }
    const auto blocks = static_cast<double>(report.reconstruction.size());
    out += fmt::format("- Reconstructed {} blocks: what their outputs cost, on average {:.3g} → {:.3g} nats\n",
                       report.reconstruction.size(), before / blocks, after / blocks);
  }
  if (const auto& r = report.refinement) {
    out += fmt::format("- Refined in {} steps: KL {:.5f} → {:.5f} on calibration text that no step saw{}\n", r->steps,
                       r->kl_before, r->kl_after, r->kept ? "" : "; not kept");
  }
  if (const auto& e = report.evaluation) {
    out += fmt::format("- Measured by a fresh process on the written files, level {}, {}", plain(e->level),
                       duration(e->seconds));
    if (e->seconds_allowed) out += fmt::format(" of {} allowed", duration(*e->seconds_allowed));
    out += ", on: " + describe(e->conditions) + "\n";
    if (e->text.sequences > 0) out += "- Held-out text: " + describe(e->text) + "\n";
    if (e->divergence) out += fmt::format("- Positions compared: {}\n", e->divergence->positions);
    if (e->tasks) {
      out += fmt::format("- Tasks: {} of {}, greedy, at most {} new tokens\n", e->tasks->count, e->tasks->available,
                         e->tasks->max_new_tokens);
    }
    if (e->latency) {
      out += fmt::format("- Time per token: median of {} steps after {} tokens, one sequence\n", e->latency->steps,
                         e->latency->context);
    }
    for (const std::string& note : e->notes) out += "- Note: " + plain(note) + "\n";
  }
  out += "\n";
}

}  // namespace

std::string verdict(const Report& report) {
  std::vector<std::string> parts;
  const auto& e = report.evaluation;
  if (e && e->sizes && e->sizes->ratio > 0) {
    parts.push_back(fmt::format("{:.1f}× smaller ({} → {})", e->sizes->ratio, format_bytes(e->sizes->source_file_bytes),
                                format_bytes(e->sizes->file_bytes)));
  } else if (report.source && report.source->file_bytes > 0 && report.artifact.file_bytes > 0) {
    parts.push_back(
        fmt::format("{:.1f}× smaller ({} → {})",
                    static_cast<double>(report.source->file_bytes) / static_cast<double>(report.artifact.file_bytes),
                    format_bytes(report.source->file_bytes), format_bytes(report.artifact.file_bytes)));
  }
  if (e && e->divergence) {
    parts.push_back("KL " + number(e->divergence->kl_mean));
    parts.push_back("top-1 " + percent(e->divergence->top1_agreement));
  } else if (e && e->perplexity) {
    parts.push_back("perplexity " + number(*e->perplexity));
  }
  if (e && e->tasks) {
    const auto source = e->tasks->source_accuracy();
    parts.push_back("task accuracy " + (source ? percent(*source) + " → " : "") + percent(e->tasks->accuracy()));
  }
  if (e && e->contract) {
    const Contract& c = *e->contract;
    const auto amount = [&](double value) {
      return c.measure == Contract::kDivergence ? fmt::format("{:.4f}", value) : format_percent(value);
    };
    parts.push_back(fmt::format("{}: {} lost by {}, {} allowed", c.holds ? "contract holds" : "CONTRACT BROKEN",
                                amount(c.loss), c.measure, amount(c.max_loss)));
  }
  if (!e) parts.emplace_back("not verified");
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : "; ") + part;
  return out;
}

std::string to_markdown(const Report& report) {
  std::string out = "# " + plain(report.artifact.family.empty() ? "Model" : report.artifact.family) + " as " +
                    plain(report.artifact.storage) + "\n\n" + verdict(report) + ".\n\n";
  out += "## Before and after\n\n" + side_by_side({&report, 1}).markdown() + "\n";
  const auto& e = report.evaluation;
  if (e && e->tasks && !e->tasks->groups.empty()) add_tasks(out, *e->tasks);
  if (e && e->sizes) add_sizes(out, *e->sizes);
  if (e && e->weights) add_worst(out, *e->weights);
  add_list(out, "Carried over untouched, because no rule names them", report.carried_over);
  add_method(out, report);
  if (!report.warnings.empty()) {
    out += "## Warnings\n\n";
    for (const std::string& warning : report.warnings) out += "- " + plain(warning) + "\n";
    out += "\n";
  }
  if (!report.recipe.is_null()) {
    out += "## Recipe\n\n```json\n" +
           report.recipe.dump(2, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n```\n\n";
  }
  out += "All figures, exact and by tensor: report.json.\n";
  return out;
}

std::string summary_table(std::span<const Report> reports) {
  if (reports.empty()) return "";
  std::string out = side_by_side(reports).text();
  for (const Report& report : reports) {
    const TextUse text = report.evaluation ? report.evaluation->text : TextUse();
    if (text.sequences == 0) continue;
    const std::string used =
        fmt::format("measured on {} tokens: {}\n", text.sequences * text.length, plain(text.source));
    if (out.find(used) == std::string::npos) out += used;
  }
  return out;
}

std::string cpu_name() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    const size_t colon = line.find(": ");
    if (line.rfind("model name", 0) == 0 && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown";
}

}  // namespace autoglm::eval
