#pragma once
/// The small files of a model folder, which every folder made from it has too.
#include <filesystem>
#include <string>

#include "core/base/status.h"
#include "core/format/folder_writer.h"

namespace autoglm::format {

/// Whether a name is that of a small file that belongs to every form of a model: tokenizer, configs, chat template,
/// licence.
bool is_small_file(const std::string& name);

/// Copies the small files of the folder `from` that belong to every form of the model: tokenizer, generation config,
/// chat template, licence; not weights, their index, config.json, reports, or program code. kBadInput: the folder
/// cannot be listed. kResourceExhausted: disk.
Status copy_small_files(const std::filesystem::path& from, FolderWriter& writer);

}  // namespace autoglm::format
