#include "compress/pass/traces.h"

namespace autoglm::pass {

Result<Traces> Traces::read(const Journal::Part& part, const format::TensorLayout& layout,
                            const format::ModelConfig& config) {
  Traces out;
  try {
    for (const nlohmann::json& t : part.record.at("tensors")) {
      out.reports.push_back({t.at(0), t.at(1), t.at(2), t.at(3), t.at(4), t.at(5), t.at(6)});
    }
    out.corrected = part.record.at("corrected").get<std::vector<std::string>>();
  } catch (const nlohmann::json::exception&) {
    return part.damaged();
  }
  AUTOGLM_ASSIGN_OR_RETURN(out.statistics, calibrate::StatisticsFile::read(part.folder));
  AUTOGLM_ASSIGN_OR_RETURN(out.folds, format::Folds::read(part.folder, layout, config));
  return out;
}

Status Traces::write(const std::filesystem::path& folder) const {
  if (!folds.empty()) AUTOGLM_RETURN_IF_ERROR(folds.write(folder));
  return statistics.empty() ? ok_status() : statistics.write(folder);
}

nlohmann::json Traces::record() const {
  nlohmann::json tensors = nlohmann::json::array();
  for (const TensorReport& t : reports) {
    tensors.push_back({t.name, t.method, t.scheme, t.mse, t.cosine, t.output_error, t.note});
  }
  return {{"tensors", tensors}, {"corrected", corrected}};
}

}  // namespace autoglm::pass
