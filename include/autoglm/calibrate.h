#pragma once
/// build_calibration(): text goes in, a calibration set comes out: token sequences without duplicates, spread over
/// sources, languages and lengths, in a file that compress() takes as its calibration text.
#include <autoglm/cancel.h>
#include <autoglm/status.h>

#include <cstdint>
#include <string>
#include <vector>

namespace autoglm {

struct CalibrationOptions {
  std::string model;               ///< whose tokenizer counts, and that writes the text of "self"
  std::vector<std::string> texts;  ///< each a .txt, a .jsonl, a folder of them, or "self": written by the model
  std::string output;              ///< the file to write, .jsonl
  bool overwrite = false;          ///< replace an existing file
  int64_t samples = 128;           ///< sequences
  int64_t length = 512;            ///< tokens of each, at most
  bool join = false;               ///< sequences may go over the end of a document
  uint64_t seed = 0;               ///< of every random choice
  int64_t max_ram = 0;             ///< bytes, for "self"; 0: what the machine has
  int threads = 0;                 ///< for "self"; 0: all cores
};

struct CalibrationOutcome {
  std::string json;     ///< a set's header, file, hash and strata; or what was compared (docs/REPORT.md)
  std::string summary;  ///< the same for people
};

/// Blocks until done; `cancel` stops it within a second and leaves nothing behind. The same options and files give the
/// same bytes. Errors: kInvalidArgument (options), kBadInput (files), kResourceExhausted (disk, memory), kCancelled.
Result<CalibrationOutcome> build_calibration(const CalibrationOptions& options,
                                             CancelToken& cancel = CancelToken::global());

struct ShiftOptions {
  std::string model;                     ///< the float checkpoint
  std::vector<std::string> calibration;  ///< sets to compare: each text as above, "self", or a set that was built
  std::string evaluation;                ///< what the model will be used on: likewise
  std::string quantization = "int4";     ///< what every matrix is quantized to, by GPTQ
  int64_t samples = 32;                  ///< sequences of each
  int64_t length = 256;                  ///< tokens of each sequence
  uint64_t seed = 0;
  int64_t max_ram = 0;  ///< bytes; 0: what the machine has
  int threads = 0;
};

/// How far each set lies from the evaluation text, input by input, what quantizing on it costs there, and how the two
/// go together (Spearman's rank correlation). Nothing is written but temporary states. Errors: as build_calibration.
Result<CalibrationOutcome> measure_shift(const ShiftOptions& options, CancelToken& cancel = CancelToken::global());

/// What a set that was built holds. kBadInput: names the file and the line that is wrong.
Result<CalibrationOutcome> show_calibration(const std::string& set);

}  // namespace autoglm
