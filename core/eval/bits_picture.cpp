#include "core/eval/bits_picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <optional>
#include <vector>

#include "core/eval/table.h"

namespace autoglm::eval {
namespace {

/// "model.layers.12.mlp.down_proj" is layer 12 and "down_proj".
struct Place {
  int64_t layer = -1;
  std::string matrix;
};

Place place_of(const std::string& name) {
  Place place;
  const std::string layers = "layers.";
  const size_t at = name.find(layers);
  size_t end = at == std::string::npos ? std::string::npos : at + layers.size();
  if (end != std::string::npos && end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) {
    place.layer = 0;
    for (; end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0 && place.layer < 1'000'000;
         ++end)
      place.layer = 10 * place.layer + (name[end] - '0');
  }
  const size_t plus = name.find('+'), dot = name.rfind('.', plus);
  place.matrix = dot == std::string::npos ? name : name.substr(dot + 1);
  return place;
}

/// For XML; names come from files.
std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : printable(text)) {
    switch (c) {
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '&': out += "&amp;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

/// Few bits are warm, many are cool.
std::string color_of(double bits) {
  const double share = std::clamp((bits - 2) / 6, 0.0, 1.0);
  return fmt::format("hsl({:.0f},65%,50%)", 20 + 190 * share);
}

constexpr double kBarTop = 50, kBarHeight = 14, kBarLeft = 330, kBarWidth = 240;  // the bars; 16 bits are kBarWidth
constexpr double kPlotLeft = 690, kPlotTop = 50, kPlotWidth = 330, kPlotHeight = 260;

std::string text_at(double x, double y, const std::string& words, const char* more = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", x, y, more, escaped(words));
}

std::string bars(const AutomaticBits& bits) {
  std::string out = text_at(10, 24, "Stored bits per weight", " font-size=\"15\"");
  double y = kBarTop;
  for (const ChosenFormat& format : bits.formats) {
    const double width = kBarWidth * std::min(format.bits_per_weight, 16.0) / 16;
    out += text_at(kBarLeft - 8, y + 10, format.name, " text-anchor=\"end\"");
    out += fmt::format("<rect x=\"{}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{}\" fill=\"{}\"/>\n", kBarLeft, y, width,
                       kBarHeight - 3, color_of(format.bits_per_weight));
    out += text_at(kBarLeft + width + 6, y + 10, fmt::format("{:.2f} {}", format.bits_per_weight, format.scheme));
    y += kBarHeight;
  }
  return out;
}

/// Megabytes to the right, the logarithm of the loss upwards.
class Plot {
 public:
  explicit Plot(const AutomaticBits& bits) : bits_(bits) {
    for (const CurvePoint& point : bits.curve) include(point.bytes, point.estimated_kl);
    for (const Attempt& attempt : bits.attempts) include(attempt.bytes, attempt.kl.value_or(attempt.estimated_kl));
    include(bits.bytes, bits.estimated_kl);
  }

  std::string svg() const {
    if (!(right_ > left_) || !(high_ > low_)) return "";
    std::string out = text_at(kPlotLeft, 24, "Size and loss", " font-size=\"15\"");
    out += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" fill=\"none\" stroke=\"#999\"/>\n",
                       kPlotLeft, kPlotTop, kPlotWidth, kPlotHeight);
    for (int power = static_cast<int>(std::ceil(low_)); power <= static_cast<int>(std::floor(high_)); ++power) {
      const double at = y(std::pow(10.0, power));
      out += fmt::format("<line x1=\"{}\" y1=\"{:.1f}\" x2=\"{}\" y2=\"{:.1f}\" stroke=\"#ddd\"/>\n", kPlotLeft, at,
                         kPlotLeft + kPlotWidth, at);
      out += text_at(kPlotLeft - 6, at + 4, fmt::format("{:g}", std::pow(10.0, power)), " text-anchor=\"end\"");
    }
    for (int i = 0; i <= 4; ++i) {
      const double bytes = left_ + (right_ - left_) * i / 4;
      out +=
          text_at(x(bytes), kPlotTop + kPlotHeight + 16, fmt::format("{:.3g}", bytes / 1e6), " text-anchor=\"middle\"");
    }
    out += text_at(kPlotLeft + kPlotWidth / 2, kPlotTop + kPlotHeight + 34, "MB of tensors", " text-anchor=\"middle\"");
    out += text_at(kPlotLeft, kPlotTop - 8, "KL divergence in nats: line estimated, dots measured, ring chosen");
    out += "<polyline fill=\"none\" stroke=\"#36c\" points=\"";
    for (const CurvePoint& point : bits_.curve) {
      if (point.estimated_kl > 0) out += fmt::format("{:.1f},{:.1f} ", x(point.bytes), y(point.estimated_kl));
    }
    out += "\"/>\n";
    for (const Attempt& attempt : bits_.attempts) {
      if (attempt.kl && *attempt.kl > 0) out += circle(attempt.bytes, *attempt.kl, attempt.holds ? "#2a2" : "#c33", 4);
    }
    return out + circle(bits_.bytes, bits_.estimated_kl, "none", 7);
  }

 private:
  void include(int64_t bytes, double loss) {
    if (!(loss > 0)) return;
    left_ = std::min(left_, static_cast<double>(bytes));
    right_ = std::max(right_, static_cast<double>(bytes));
    low_ = std::min(low_, std::log10(loss));
    high_ = std::max(high_, std::log10(loss));
  }
  double x(double bytes) const { return kPlotLeft + kPlotWidth * (bytes - left_) / (right_ - left_); }
  double x(int64_t bytes) const { return x(static_cast<double>(bytes)); }
  double y(double loss) const { return kPlotTop + kPlotHeight * (high_ - std::log10(loss)) / (high_ - low_); }
  std::string circle(int64_t bytes, double loss, const char* fill, int radius) const {
    if (!(loss > 0)) return "";
    return fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{}\" fill=\"{}\" stroke=\"#333\"/>\n", x(bytes),
                       y(loss), radius, fill);
  }

  const AutomaticBits& bits_;
  double left_ = INFINITY, right_ = -INFINITY, low_ = INFINITY, high_ = -INFINITY;
};

}  // namespace

std::string bits_table(const AutomaticBits& bits) {
  std::vector<std::string> columns;
  std::map<int64_t, std::map<std::string, std::string>> layers;
  std::string rest;
  for (const ChosenFormat& format : bits.formats) {
    const Place place = place_of(format.name);
    const std::string cell = fmt::format("{:.1f}", format.bits_per_weight);
    if (place.layer < 0) {
      rest += fmt::format("{}: {} ({})\n", printable(format.name), cell, printable(format.scheme));
      continue;
    }
    if (std::find(columns.begin(), columns.end(), place.matrix) == columns.end()) columns.push_back(place.matrix);
    layers[place.layer][place.matrix] = cell;
  }
  if (layers.empty()) return rest;
  std::vector<std::string> header = {"bits"};
  header.insert(header.end(), columns.begin(), columns.end());
  Table table(header);
  for (auto& [layer, cells] : layers) {
    std::vector<std::string> row = {fmt::format("layer {}", layer)};
    for (const std::string& column : columns) row.push_back(cells[column]);
    table.add_row(std::move(row));
  }
  return table.text() + rest;
}

std::string bits_svg(const AutomaticBits& bits) {
  const double height =
      std::max(kBarTop + kBarHeight * static_cast<double>(bits.formats.size()), kPlotTop + kPlotHeight + 40) + 20;
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"1060\" height=\"{:.0f}\" "
             "font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n",
             height) +
         bars(bits) + Plot(bits).svg() + "</svg>\n";
}

}  // namespace autoglm::eval
