"""Feeds check_rooms.py small trees, each with one breach, and expects it to be named."""
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent


def check(files):
    """Exit code and output for a tree of {path: text}."""
    with tempfile.TemporaryDirectory() as folder:
        for path, text in files.items():
            file = Path(folder, path)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        run = subprocess.run([sys.executable, HERE / "check_rooms.py", folder], capture_output=True, text=True)
        return run.returncode, run.stdout


CLEAN = {
    "core/base/status.h": "#pragma once\n#include <string>\n",
    "core/format/config.h": '#include "core/base/status.h"\n#include <nlohmann/json.hpp>\n',
    "compress/quant/gptq.cpp": '#include "core/format/config.h"\n#include <torch/torch.h>\n',
    "api/session.h": '#include "core/base/status.h"\n#include <autoglm/options.h>\n',
    "api/session.cpp": "#include <torch/torch.h>\n",
    "include/autoglm/options.h": "#include <vector>\n",
    "core/CMakeLists.txt": "autoglm_room(core/format LINKS autoglm::base PRIVATE_LINKS nlohmann_json::nlohmann_json)\n",
    "tests/anything.cpp": '#include "apps/cli/main.h"\n',
}


class CheckRooms(unittest.TestCase):
    def breach(self, path, text, expected):
        code, out = check({**CLEAN, path: text})
        self.assertEqual(code, 1, out)
        self.assertIn(expected, out)
        self.assertIn(" 1 breaches", out)

    def test_clean_tree_passes(self):
        code, out = check(CLEAN)
        self.assertEqual(code, 0, out)
        self.assertIn("6 files", out)

    def test_empty_tree_is_no_success(self):
        self.assertEqual(check({"README.md": "text"})[0], 1)

    def test_back_edge(self):
        self.breach("core/base/bad.cpp", '\n#include "core/format/config.h"\n',
                    "core/base/bad.cpp:2: core/base may not include core/format")

    def test_back_edge_in_angle_brackets(self):
        self.breach("core/base/bad.h", "# include <core/format/config.h>\n", "may not include core/format")

    def test_methods_do_not_see_one_another(self):
        self.breach("compress/prune/bad.cpp", '#include "compress/quant/gptq.cpp"\n', "may not include compress/quant")

    def test_tests_beside_the_code_are_held_too(self):
        self.breach("core/base/bad_test.cpp", '#include "core/format/config.h"\n', "may not include core/format")

    def test_torch_in_core(self):
        self.breach("core/format/bad.cpp", "#include <ATen/ATen.h>\n",
                    "a source of core/format may not include LibTorch")

    def test_torch_in_a_header_of_api(self):
        self.breach("api/bad.h", "#include <torch/torch.h>\n", "a header of api may not include LibTorch")

    def test_torch_that_reaches_apps_through_a_header_of_another_room(self):
        code, out = check({**CLEAN, "compress/tensor/bridge.h": "#include <torch/torch.h>\n",
                           "api/wiring.h": '#include "compress/tensor/bridge.h"\n',
                           "apps/cli/main.cpp": '#include "api/wiring.h"\n'})
        self.assertEqual(code, 1)
        self.assertIn("apps/cli/main.cpp:1: reaches LibTorch, which apps/cli may not see, "
                      "through compress/tensor/bridge.h:1", out)

    def test_public_header_with_a_third_party_include(self):
        self.breach("include/autoglm/bad.h", "#include <nlohmann/json.hpp>\n", "a public header includes only")

    def test_public_header_that_leaks_a_room(self):
        self.breach("include/autoglm/bad.h", '#include "core/base/status.h"\n', "may not include core/base")

    def test_unknown_folder(self):
        self.breach("core/extra/new.cpp", "", "core/extra/new.cpp:1: is in no room")
        self.breach("newroom/new.h", "", "newroom/new.h:1: is in no room")

    def test_include_that_is_not_root_relative(self):
        self.breach("core/format/bad.cpp", '#include "config.h"\n', "not a file of a room")

    def test_include_by_macro(self):
        self.breach("core/format/bad.cpp", "#include HEADER\n", "includes by macro 'HEADER'")

    def test_link_against_the_arrows(self):
        self.breach("core/CMakeLists.txt", "autoglm_room(core/base LINKS autoglm::format)\n",
                    "core/CMakeLists.txt:1: core/base may not link autoglm::format")

    def test_torch_linked_in_core(self):
        self.breach("core/CMakeLists.txt", "autoglm_room(core/base TORCH)\n", "core/base may not link LibTorch")


if __name__ == "__main__":
    unittest.main()
