#include "compress/quant/register.h"

#include "compress/quant/awq.h"
#include "compress/quant/gptaq.h"
#include "compress/quant/gptq.h"
#include "compress/quant/rtn.h"
#include "compress/quant/smoothquant.h"

namespace autoglm::quant {

void register_quantizers(pass::Registry& registry) {
  registry.add("awq", make_awq);
  registry.add("gptaq", make_gptaq);
  registry.add("gptq", make_gptq);
  registry.add("rtn", make_rtn);
  registry.add_smoother("awq", make_awq_scales);
  registry.add_smoother("smoothquant", make_smoothquant);
}

}  // namespace autoglm::quant
