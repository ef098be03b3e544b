#include "compress/quant/register.h"

#include "compress/quant/gptaq.h"
#include "compress/quant/gptq.h"
#include "compress/quant/rtn.h"

namespace autoglm::quant {

void register_quantizers(pass::Registry& registry) {
  registry.add("gptaq", make_gptaq);
  registry.add("gptq", make_gptq);
  registry.add("rtn", make_rtn);
}

}  // namespace autoglm::quant
