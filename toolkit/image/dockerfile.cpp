#include "image/dockerfile.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>

#include "image/debian.h"
#include "image/installed_wheel.h"
#include "image/plan.h"

namespace envkit {
namespace {

using nlohmann::json;

// For a shell, inside of single quotes.
std::string Quoted(std::string_view text) {
  std::string quoted = "'";
  for (const char c : text) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

// LINES as FILE. Not a here-document: docker's older builders have none.
std::string WriteLines(const std::string& file, const std::vector<std::string>& lines) {
  if (lines.empty()) return fmt::format("RUN : > {}\n", file);
  std::string text = "RUN printf '%s\\n' \\\n";
  for (const std::string& line : lines) text += fmt::format("      {} \\\n", Quoted(line));
  return text + fmt::format("    > {}\n", file);
}

// Exactly these versions, each file checked before it is installed. What the base has already in
// that version stays as it is.
std::string InstallDebs(const std::vector<LockedDeb>& debs) {
  std::vector<std::string> lines;
  lines.reserve(debs.size());
  for (const LockedDeb& deb : debs) {
    lines.push_back(
        fmt::format("{} {} {} {}", deb.sha256, deb.name, deb.version, deb.architecture));
  }
  std::sort(lines.begin(), lines.end(),
            [](const std::string& a, const std::string& b) { return a.substr(65) < b.substr(65); });
  return WriteLines("/debian.txt", lines) + R"(RUN set -e; \
    if [ -n "$DEBIAN_SOURCES" ]; then \
      rm -rf /etc/apt/sources.list.d/*; printf '%b\n' "$DEBIAN_SOURCES" > /etc/apt/sources.list; \
    fi; \
    export DEBIAN_FRONTEND=noninteractive; \
    apt-get update -q; \
    set -- $(sed 's/^[^ ]* \([^ ]*\) \([^ ]*\) .*$/\1=\2/' /debian.txt); \
    install="apt-get install -q -y --no-install-recommends --allow-downgrades"; \
    $install --download-only "$@"; \
    while read -r sha256 name version architecture; do \
      file=/var/cache/apt/archives/${name}_$(echo "$version" | sed 's/:/%3a/')_$architecture.deb; \
      if [ -f "$file" ]; then echo "$sha256  $file" | sha256sum --check --quiet -; fi; \
    done < /debian.txt; \
    $install "$@"; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb /debian.txt
)";
}

void AddMembers(const std::string& out, const LayerPlan& layer, std::vector<std::string>& lines) {
  for (std::size_t index = 0; index < layer.wheels.size(); ++index) {
    std::vector<std::string> patterns = layer.members[index];
    if (patterns.empty()) patterns = {"*"};
    const LockedWheel& wheel = layer.wheels[index];
    for (const std::string& pattern : patterns) {
      lines.push_back(fmt::format("{} {} {} {}", out, wheel.name, wheel.file, pattern));
    }
  }
}

std::string WheelStage(const ImagePlan& plan, const LayerPlan& runtime) {
  std::map<std::string, std::string> requirements;  // by name
  std::vector<std::string> members;
  const auto add = [&](const LayerPlan& layer) {
    for (const LockedWheel& wheel : layer.wheels) {
      requirements[wheel.name] =
          wheel.from.empty()
              ? fmt::format("{}=={} --hash=sha256:{}", wheel.name, wheel.version, wheel.sha256)
              : fmt::format("{} @ {} --hash=sha256:{}", wheel.name, wheel.from, wheel.sha256);
    }
  };
  for (const LayerPlan& layer : plan.layers) {
    if (layer.kind != "wheel") continue;
    add(layer);
    AddMembers("/image", layer, members);
  }
  add(runtime);
  AddMembers("/builder", runtime, members);
  std::sort(members.begin(), members.end());
  std::vector<std::string> left_out;
  if (const LayerPlan* no_cuda = FindKind(plan, "no-cuda")) {
    for (const LockedWheel& wheel : no_cuda->left_out) {
      left_out.push_back(
          fmt::format("/image {} {} {}", wheel.name, wheel.version, LeftOutDistInfo(wheel.file)));
    }
  }
  std::vector<std::string> lines;
  lines.reserve(requirements.size());
  for (const auto& [name, line] : requirements) lines.push_back(line);
  return "\n# The wheels, and of each what the image needs. Nothing else of this stage gets into "
         "it.\n"
         "FROM ${BASE} AS wheels\n"
         "ARG PIP_INDEX_URL\nARG PIP_EXTRA_INDEX_URL\nARG DEBIAN_SOURCES\n"
         "RUN set -e; \\\n"
         "    if [ -n \"$DEBIAN_SOURCES\" ]; then \\\n"
         "      rm -rf /etc/apt/sources.list.d/*; printf '%b\\n' \"$DEBIAN_SOURCES\" > "
         "/etc/apt/sources.list; \\\n"
         "    fi; \\\n"
         "    apt-get update -q; \\\n"
         "    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "
         "python3-pip\n" +
         WriteLines("/requirements.txt", lines) +
         "RUN python3 -m pip download --no-deps --only-binary :all: --require-hashes "
         "--no-cache-dir \\\n"
         "      --dest /wheels --requirement /requirements.txt\n" +
         WriteLines("/members.txt", members) + WriteLines("/left-out.txt", left_out) +
         fmt::format(
             "COPY images/scripts/install-wheels.py /\n"
             "RUN python3 /install-wheels.py /{} /members.txt /left-out.txt\n",
             runtime.site);
}

std::string RuntimeStage(const ImagePlan& plan, const LayerPlan& runtime) {
  std::string stand_ins;
  if (const LayerPlan* no_cuda = FindKind(plan, "no-cuda")) {
    stand_ins = fmt::format(
        "# In place of CUDA's libraries, which Python's torch is linked with.\n"
        "COPY images/scripts/no-cuda.sh /\n"
        "RUN sh /no-cuda.sh /{0} /out/{0} {1}\n",
        runtime.site, CudnnOf(*no_cuda));
  }
  return "\n# The C++ runtime, compiled against the image's own torch.\n"
         "FROM ${BASE} AS runtime\nARG DEBIAN_SOURCES\n" +
         InstallDebs(runtime.debs) + "COPY --from=wheels /image /\n" + stand_ins +
         fmt::format(
             "COPY --from=wheels /builder /\n"
             "COPY runtime /src/runtime\n"
             "COPY toolkit /src/toolkit\n"
             "RUN cmake -S /src/runtime -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release "
             "-DCMAKE_UNITY_BUILD=ON \\\n"
             "      -DCMAKE_INSTALL_PREFIX=/opt/envkit \\\n"
             "      -DENVKIT_SITE_PACKAGES=/{} -DENVKIT_CUDA={} && \\\n"
             "    ninja -C /build && DESTDIR=/out ninja -C /build install\n",
             runtime.site, plan.variant == "cuda" ? "ON" : "OFF");
}

Result<std::string> ImageStage(const ImagePlan& plan) {
  std::string text =
      "\n# The image.\nFROM ${BASE}\nARG DEBIAN_SOURCES\n" +
      InstallDebs(FindKind(plan, "os")->debs) +
      "COPY --from=wheels /image /\nCOPY --from=runtime /out /\nRUN mkdir -p /workspace /data\n";
  for (const auto& [name, content] : FindKind(plan, "recipe")->files) {
    // Docker has these to itself while it builds, and makes them for every container.
    if (name == "etc/hosts" || name == "etc/hostname" || name == "etc/resolv.conf") continue;
    if (name.ends_with('/')) {
      const std::string path = Quoted("/" + name.substr(0, name.size() - 1));
      text += fmt::format("RUN mkdir -p {0} && chmod 1777 {0}\n", path);
      continue;
    }
    if (name.ends_with('@')) {
      const std::filesystem::path link = "/" + name.substr(0, name.size() - 1);
      text += fmt::format("RUN mkdir -p {} && ln -s {} {}\n", Quoted(link.parent_path().string()),
                          Quoted(content), Quoted(link.string()));
      continue;
    }
    std::vector<std::string> lines;
    for (std::size_t at = 0; at < content.size();) {
      const std::size_t end = std::min(content.find('\n', at), content.size());
      lines.push_back(content.substr(at, end - at));
      at = end + 1;
    }
    if (const std::size_t slash = name.rfind('/'); slash != std::string::npos) {
      text += fmt::format("RUN mkdir -p {}\n", Quoted("/" + name.substr(0, slash)));
    }
    text += WriteLines(Quoted("/" + name), lines);
    if (content.starts_with("#!")) text += fmt::format("RUN chmod 755 {}\n", Quoted("/" + name));
  }
  if (FindKind(plan, "bytecode") != nullptr) {
    // Without what compile-bytecode.py leaves out. Exit code 1: some files are templates, which
    // nothing can compile.
    text += fmt::format(
        "RUN python3 -m compileall -qq -j 0 --invalidation-mode unchecked-hash \\\n"
        "      -x '/tests?/|/torch/testing/_internal/' /{} || test $? = 1\n",
        FindKind(plan, "runtime")->site);
  }
  const json settings = ImageSettings(plan);
  for (const json& variable : settings["Env"]) {
    const std::string word = variable;
    const std::size_t equals = word.find('=');
    text +=
        fmt::format("ENV {}={}\n", word.substr(0, equals), json(word.substr(equals + 1)).dump());
  }
  for (const auto& [name, value] : settings["Labels"].items()) {
    text += fmt::format("LABEL {}={}\n", name, value.dump());
  }
  text += fmt::format("WORKDIR {}\n", settings["WorkingDir"].get<std::string>());
  return text + fmt::format("ENTRYPOINT {}\n", settings["Entrypoint"].dump());
}

// docker build can fetch what an index or a URL has.
Result<void> RequirePublic(const ImagePlan& plan) {
  for (const LayerPlan& layer : plan.layers) {
    for (const LockedWheel& wheel : layer.wheels) {
      if (wheel.from.empty() || wheel.from.find("://") != std::string::npos) continue;
      const bool built = wheel.from.starts_with("sdist:");
      return Usage(
          fmt::format("a Dockerfile cannot have {}: it {}", wheel.file,
                      built ? "is built from source here" : "is the project's own " + wheel.from),
          "Put the wheel on an index ([index] in envkit.toml), then envkit lock; or send the "
          "image\n"
          "itself:  envkit image push");
    }
  }
  return {};
}

}  // namespace

Result<std::string> RenderDockerfile(const Project& project, const ImagePlan& plan) {
  if (FindKind(plan, "os")->debs.empty()) {
    return Usage(fmt::format("base = \"{}\": a Dockerfile can be written for Debian bases",
                             project.environment.base),
                 "With another image as the base, docker's users begin with FROM its name.");
  }
  ENVKIT_CHECK(RequirePublic(plan));
  ENVKIT_TRY(const std::string codename, DebianCodename(project.environment.base));
  const LayerPlan& runtime = *FindKind(plan, "runtime");
  std::string text = fmt::format(
      "# {0}:{1}-{2} of envkit.lock {3:.12}, for docker build without envkit. Written by\n"
      "#   envkit render dockerfile --profile {1} --variant {2}\n"
      "# The context is a directory with envkit's images/, runtime/ and toolkit/, such as its "
      "source:\n"
      "#   docker build -t {0}:{1}-{2} -f Dockerfile DIRECTORY\n"
      "# Debian's mirrors keep their newest versions alone. For a lock that is older, name a "
      "snapshot:\n"
      "#   --build-arg DEBIAN_SOURCES='deb [check-valid-until=no] URL {4} main\\ndeb …'\n"
      "# Every file is checked against the lock's sha256. The base is yours to choose; by digest "
      "it\n"
      "# stays the same: --build-arg BASE=debian@sha256:…\n"
      "ARG BASE=debian:{4}-slim\n",
      plan.name, plan.profile, plan.variant, plan.lock_digest, codename);
  text += WheelStage(plan, runtime);
  text += RuntimeStage(plan, runtime);
  ENVKIT_TRY(const std::string image, ImageStage(plan));
  return text + image;
}

}  // namespace envkit
