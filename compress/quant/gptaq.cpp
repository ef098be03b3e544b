#include "compress/quant/gptaq.h"

#include <nlohmann/json.hpp>

#include "compress/pass/registry.h"
#include "compress/quant/gptq.h"

namespace autoglm::quant {

Result<std::unique_ptr<pass::Pass>> make_gptaq(const nlohmann::json& options) {
  AUTOGLM_ASSIGN_OR_RETURN(GptqOptions read, read_gptq_options("gptaq", options, {"share"}));
  read.drift = 0.5;
  AUTOGLM_RETURN_IF_ERROR(pass::read_option("gptaq", options, "share", read.drift));
  if (!(read.drift > 0 && read.drift <= 1)) return invalid_argument("method 'gptaq': share must be in (0, 1]");
  return make_gptq_pass("gptaq", read);
}

}  // namespace autoglm::quant
