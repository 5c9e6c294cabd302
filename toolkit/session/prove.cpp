#include "session/prove.h"

#include <fmt/format.h>

#include <system_error>

#include "base/files.h"
#include "base/process.h"
#include "image/stored.h"
#include "image/verify_image.h"

namespace envkit {
namespace {

namespace fs = std::filesystem;

Result<Bill> CurrentBill(const fs::path& directory, const ProofRequest& request) {
  ENVKIT_TRY(const Environment env, LoadEnvironment(directory));
  std::string variant = request.variant, why;
  if (variant.empty()) {
    ENVKIT_TRY(variant, ChooseVariant(env.project, env.lock, ProbeHost(), why));
  }
  const std::string profile = MainProfile(env.project, request.profile);
  ENVKIT_TRY(const ImagePlan plan, PlanImage(env.project, env.lock, env.recipes, profile, variant));
  const auto digest = BuiltDigest(plan, env.store);
  if (!digest) {
    return Missing(fmt::format("the image {}:{}-{} is not built", plan.name, profile, variant),
                   fmt::format("envkit build --profile {} --variant {}", profile, variant));
  }
  ENVKIT_TRY(const Image image, LoadImageRecord(env.store, *digest));
  return MakeBill(image, plan, env.lock, env.store, request.envkit_version);
}

Result<void> Put(const nlohmann::ordered_json& document, const fs::path& output,
                 const std::string& what, Terminal& terminal) {
  const std::string text = document.dump(2) + "\n";
  if (output.empty()) {
    terminal.Answer(text);
    return {};
  }
  ENVKIT_CHECK(WriteFileAtomic(output, text));
  terminal.Step("written", fmt::format("{} · {}", output.string(), what));
  return {};
}

fs::path SignatureOf(const fs::path& file) { return file.string() + ".sig"; }

// cosign asks for the key's password itself where COSIGN_PASSWORD has none.
Result<void> Sign(const fs::path& file, const std::string& key) {
  if (!FindExecutable("cosign")) {
    return Missing("--key needs cosign, which is not installed",
                   "Install it (https://docs.sigstore.dev), or leave --key out: the statement is "
                   "then unsigned.");
  }
  ENVKIT_TRY(const std::string known, RunForOutput({.argv = {"cosign", "sign-blob", "--help"}}));
  ProcessSpec spec;
  spec.argv = {"cosign",
               "sign-blob",
               "--yes",
               "--tlog-upload=false",
               "--key",
               key,
               "--output-signature",
               SignatureOf(file).string()};
  // Since version 2.6 or 3 it writes a bundle of its own kind otherwise, and asks a server how to
  // sign. Version 3 still knows the first of these words, and does not say so.
  if (known.find("--use-signing-config") != std::string::npos) {
    spec.argv.insert(spec.argv.end(), {"--new-bundle-format=false", "--use-signing-config=false"});
  }
  spec.argv.push_back(file.string());
  spec.inherit_input = true;
  auto signed_it = RunForOutput(spec);
  if (!signed_it) return Wrap(std::move(signed_it).error(), "signing " + file.string());
  return {};
}

Check CheckSignature(const fs::path& file, const std::string& key) {
  Check check = {"provenance.signature", "", Verdict::kSkipped, {}};
  std::error_code error;
  const bool there = fs::exists(SignatureOf(file), error);
  if (!there) {
    check.what = "the statement is unsigned";
    check.evidence = {fmt::format("there is no {}", SignatureOf(file).string())};
    if (!key.empty()) check.verdict = Verdict::kFail;
    return check;
  }
  if (key.empty()) {
    check.what = "the statement's signature was not checked";
    check.next = "Give the public key:  --key cosign.pub";
    return check;
  }
  check.what = "the statement's signature fits the key";
  if (!FindExecutable("cosign")) {
    check.evidence = {"cosign is not installed"};
    check.incomplete = true;
    return check;
  }
  const auto verified =
      RunForOutput({.argv = {"cosign", "verify-blob", "--insecure-ignore-tlog=true", "--key", key,
                             "--signature", SignatureOf(file).string(), file.string()}});
  check.verdict = verified ? Verdict::kPass : Verdict::kFail;
  check.evidence = {verified ? "cosign verified it" : verified.error().what};
  return check;
}

}  // namespace

Result<void> WriteSbom(const fs::path& directory, const ProofRequest& request, Terminal& terminal) {
  ENVKIT_TRY(const Bill bill, CurrentBill(directory, request));
  const bool spdx = request.format == "spdx";
  return Put(spdx ? SpdxOf(bill) : CycloneDxOf(bill), request.output,
             fmt::format("{}, {} packages of {}", spdx ? "SPDX 2.3" : "CycloneDX 1.6",
                         bill.items.size(), bill.name),
             terminal);
}

Result<void> WriteProvenance(const fs::path& directory, const ProofRequest& request,
                             Terminal& terminal) {
  if (!request.key.empty() && request.output.empty()) {
    return Usage("--key needs -o FILE: the signature goes to FILE.sig");
  }
  ENVKIT_TRY(const Bill bill, CurrentBill(directory, request));
  ENVKIT_CHECK(Put(ProvenanceOf(bill), request.output,
                   fmt::format("SLSA 1 provenance of {}, level 1", bill.name), terminal));
  if (request.key.empty()) {
    terminal.Step("unsigned", "no --key was given: anybody could have written this statement");
    return {};
  }
  ENVKIT_CHECK(Sign(request.output, request.key));
  terminal.Step("signed", SignatureOf(request.output).string());
  return {};
}

std::vector<Check> CheckProvenance(const fs::path& file, const std::string& key, const Bill& bill) {
  Check check = {"provenance.statement",
                 "the statement of provenance is about this image",
                 Verdict::kPass,
                 {"config digest " + bill.config_digest}};
  const auto text = ReadFile(file);
  check.evidence =
      text ? Shorten(ProvenanceDifferences(nlohmann::json::parse(*text, nullptr, false), bill))
           : std::vector<std::string>{text.error().what};
  if (!check.evidence.empty()) {
    check.verdict = Verdict::kFail;
    check.next = "It belongs to another image, or was changed.";
    return {check};
  }
  return {check, CheckSignature(file, key)};
}

}  // namespace envkit
