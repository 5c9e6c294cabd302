#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "console.h"
#include "envkit/failure.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;
using Record = nlohmann::json;

struct Point {
  double step = 0, value = 0;
};
using Curves = std::map<std::string, std::vector<Point>>;

std::string Escaped(std::string_view text) {
  std::string result;
  for (const char c : text) {
    if (c == '<')
      result += "&lt;";
    else if (c == '>')
      result += "&gt;";
    else if (c == '&')
      result += "&amp;";
    else if (c == '"')
      result += "&quot;";
    else
      result += c;
  }
  return result;
}

std::string ReadAll(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

// Three significant digits, and no exponent where none is needed.
std::string Number(double value) {
  if (value != 0 && (std::abs(value) < 1e-3 || std::abs(value) >= 1e6))
    return fmt::format("{:.2e}", value);
  return fmt::format("{:.4g}", value);
}

// A line chart as SVG, 640 by 220, with the least and the greatest value at its axes.
std::string Chart(const std::string& title, const std::vector<Point>& points, bool logarithmic) {
  constexpr double kWidth = 640, kHeight = 220, kLeft = 70, kRight = 10, kTop = 26, kBottom = 24;
  const auto scale = [&](double value) { return logarithmic ? std::log10(value) : value; };
  double x0 = INFINITY, x1 = -INFINITY, y0 = INFINITY, y1 = -INFINITY;
  std::vector<Point> drawn;
  // No more points than pixels.
  const std::size_t each = std::max<std::size_t>(1, points.size() / 600);
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (i % each != 0 && i + 1 != points.size()) continue;
    const Point point{points[i].step, scale(points[i].value)};
    if (!std::isfinite(point.value)) continue;
    drawn.push_back(point);
    x0 = std::min(x0, point.step), x1 = std::max(x1, point.step);
    y0 = std::min(y0, point.value), y1 = std::max(y1, point.value);
  }
  if (drawn.empty()) return "";
  if (x1 == x0) x1 = x0 + 1;
  const double flat = y1 == y0 ? std::max(1e-9, std::abs(y0) * 0.05) : 0;
  y0 -= flat, y1 += flat;
  std::string path;
  for (const Point& point : drawn)
    path += fmt::format(
        "{}{:.1f},{:.1f}", path.empty() ? "M" : "L",
        kLeft + (point.step - x0) / (x1 - x0) * (kWidth - kLeft - kRight),
        kHeight - kBottom - (point.value - y0) / (y1 - y0) * (kHeight - kTop - kBottom));
  const auto label = [&](double value) {
    return Number(logarithmic ? std::pow(10, value) : value);
  };
  return fmt::format(
      R"(<svg viewBox="0 0 {0} {1}" role="img" aria-label="{2}"><text x="{3}" y="16" class="t">{2}</text>
<rect x="{3}" y="{4}" width="{5}" height="{6}" class="f"/>
<text x="{7}" y="{8}" class="a">{9}</text><text x="{7}" y="{10}" class="a">{11}</text>
<text x="{3}" y="{12}">{13:.0f}</text><text x="{14}" y="{12}" class="a">step {15:.0f}</text>
<path d="{16}"/></svg>
)",
      kWidth, kHeight, Escaped(title), kLeft, kTop, kWidth - kLeft - kRight,
      kHeight - kTop - kBottom, kLeft - 6, kTop + 10, label(y1), kHeight - kBottom, label(y0),
      kHeight - 6, x0, kWidth - kRight, x1, path);
}

// Where the time went, as one bar.
std::string TimeSplit(const Curves& curves) {
  constexpr const char* kParts[] = {"data", "forward", "backward", "communication", "optimizer"};
  constexpr const char* kColours[] = {"#c0504d", "#4f81bd", "#2f5597", "#9bbb59", "#8064a2"};
  std::string bar, legend;
  double at = 0;
  for (std::size_t i = 0; i < std::size(kParts); ++i) {
    const auto found = curves.find(std::string("time/") + kParts[i]);
    if (found == curves.end()) continue;
    double sum = 0;
    for (const Point& point : found->second) sum += point.value;
    const double share = std::clamp(sum / static_cast<double>(found->second.size()), 0.0, 1.0 - at);
    bar += fmt::format(R"(<rect x="{:.2f}" width="{:.2f}" height="24" fill="{}"/>)", at * 640,
                       share * 640, kColours[i]);
    legend += fmt::format(R"(<span><i style="background:{}"></i>{} {:.1f} %</span> )", kColours[i],
                          kParts[i], 100 * share);
    at += share;
  }
  if (bar.empty()) return "";
  return "<h2>Where the time went</h2>\n<svg viewBox=\"0 0 640 24\">" + bar + "</svg>\n<p>" +
         legend + "</p>\n";
}

std::string Row(const std::string& name, const std::string& value) {
  return "<tr><th>" + Escaped(name) + "</th><td>" + Escaped(value) + "</td></tr>\n";
}

std::string Text(const Record& value) {
  return value.is_string() ? value.get<std::string>() : value.dump();
}

// A JSON object's entries as rows; objects inside it with their names before it.
std::string Rows(const Record& object, const std::string& prefix = "") {
  std::string rows;
  for (const auto& [key, value] : object.items())
    rows += value.is_object() ? Rows(value, prefix + key + ".") : Row(prefix + key, Text(value));
  return rows;
}

}  // namespace

std::string RunReport(const fs::path& run) {
  std::ifstream metrics(run / "metrics.jsonl");
  if (!metrics)
    throw Failure("there is no " + (run / "metrics.jsonl").string(),
                  "name a run's folder, such as .envkit/runs/latest", 2);
  Curves curves;
  std::string final_rows;
  // A killed writer's last line may be no JSON.
  for (std::string line; std::getline(metrics, line);) {
    const Record json = Record::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object()) continue;
    if (json.value("final", Record()) == true) {
      for (const auto& [key, value] : json.items())
        if (key != "final" && key != "time") final_rows += Row(key, Text(value));
      continue;
    }
    const Record step = json.value("step", Record());
    if (!step.is_number()) continue;
    for (const auto& [key, value] : json.items())
      if (key.find('/') != std::string::npos && value.is_number())
        curves[key].push_back({step.get<double>(), value.get<double>()});
  }
  const Record summary = Record::parse(ReadAll(run / "summary.json"), nullptr, false);
  const std::string config = ReadAll(run / "train.toml");
  std::string body;
  if (!final_rows.empty()) body += "<h2>Result</h2>\n<table>\n" + final_rows + "</table>\n";
  body += "<h2>Curves</h2>\n";
  for (const char* first : {"train/loss", "eval/loss", "eval/accuracy", "train/samples_per_second",
                            "train/lr", "train/gradient_norm"})
    if (const auto found = curves.find(first); found != curves.end())
      body += Chart(first, found->second, std::string_view(first) == "train/loss");
  for (const auto& [name, points] : curves)
    if (!name.starts_with("train/") && !name.starts_with("eval/") && !name.starts_with("time/"))
      body += Chart(name, points, false);
  body += TimeSplit(curves);
  if (summary.is_object()) body += "<h2>Environment</h2>\n<table>\n" + Rows(summary) + "</table>\n";
  if (!config.empty()) body += "<h2>train.toml</h2>\n<pre>" + Escaped(config) + "</pre>\n";
  std::error_code error;
  const fs::path whole = fs::weakly_canonical(run, error);
  const std::string title = Escaped((error ? run : whole).filename().string());
  return R"(<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>)" +
         title + R"(</title><style>
body{font:15px/1.5 sans-serif;max-width:700px;margin:2em auto;padding:0 1em;color:#222}
svg{width:100%;font-size:11px}svg path{fill:none;stroke:#2f5597;stroke-width:1.5}
.f{fill:#f6f7f9;stroke:#ccc}.t{font-size:13px;font-weight:bold}.a{text-anchor:end}
table{border-collapse:collapse}th{text-align:left;font-weight:normal;color:#666;padding-right:1.5em;vertical-align:top}
td{overflow-wrap:anywhere}pre{background:#f6f7f9;padding:1em;overflow:auto}
i{display:inline-block;width:.8em;height:.8em;margin-right:.3em}span{margin-right:1em}
</style></head><body>
<h1>)" + title +
         "</h1>\n" + body + "</body></html>\n";
}

}  // namespace envkit
