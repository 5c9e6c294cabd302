// A stand-in for libnvidia-ml.so.1. MOCK_NVML chooses the machine; with MOCK_OLD it lacks what old
// drivers lack.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

namespace {

using Device = void*;
constexpr int kOk = 0, kNotSupported = 3, kNotFound = 6, kNoDriver = 9, kLost = 15, kVersions = 18;
constexpr unsigned kMigBase = 1000;

std::string Scenario() {
  const char* name = std::getenv("MOCK_NVML");
  return name == nullptr ? "eight" : name;
}
unsigned Count() { return Scenario() == "none" ? 0 : 8; }
Device Handle(unsigned index) { return reinterpret_cast<Device>(index + 1ul); }
unsigned Index(Device device) {
  return static_cast<unsigned>(reinterpret_cast<unsigned long>(device) - 1);
}
int Write(char* out, unsigned size, const std::string& text) {
  std::snprintf(out, size, "%s", text.c_str());
  return kOk;
}

}  // namespace

extern "C" {

int nvmlInit_v2() {
  if (Scenario() == "hang") {
    for (;;) pause();
  }
  if (Scenario() == "crash") {
    // Not through a null pointer, which sanitizers would report in their own words.
    kill(getpid(), 11);
    for (;;) pause();
  }
  if (Scenario() == "exit") _exit(7);
  if (Scenario() == "versions") return kVersions;
  return Scenario() == "no-driver" ? kNoDriver : kOk;
}
int nvmlSystemGetDriverVersion(char* out, unsigned size) { return Write(out, size, "595.45.04"); }
int nvmlDeviceGetCount_v2(unsigned* count) { return *count = Count(), kOk; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device* device) {
  if (index >= Count()) return kNotFound;
  if (Scenario() == "lost" && index == 3) return kLost;
  if (Scenario() == "hang-at-5" && index == 5) {
    for (;;) pause();
  }
  *device = Handle(index);
  return kOk;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char* address, Device* device) {  // "0000:1N:00.0"
  return nvmlDeviceGetHandleByIndex_v2(
      static_cast<unsigned>(std::strtoul(address + 5, nullptr, 16)) - 0x10, device);
}
int nvmlDeviceGetName(Device, char* out, unsigned size) {
  return Write(out, size, "NVIDIA H100 80GB HBM3");
}
int nvmlDeviceGetUUID(Device device, char* out, unsigned size) {
  const unsigned index = Index(device);
  char text[96];
  std::snprintf(text, sizeof text, "%s-00000000-0000-0000-0000-%012u",
                index >= kMigBase ? "MIG" : "GPU", index);
  return Write(out, size, text);
}
struct PciInfo {
  char legacy[16];
  unsigned domain, bus, device, id, subsystem;
  char bus_id[32];
};
int nvmlDeviceGetPciInfo_v3(Device device, PciInfo* info) {
  std::memset(info, 0, sizeof *info);
  info->bus = 0x10 + Index(device);
  return kOk;
}
int nvmlDeviceGetMemoryInfo(Device, unsigned long long* memory) {
  memory[0] = 85899345920ull;
  memory[1] = 85000000000ull;
  memory[2] = memory[0] - memory[1];
  return kOk;
}

#ifndef MOCK_OLD
int nvmlSystemGetNVMLVersion(char* out, unsigned size) { return Write(out, size, "13.595.45.04"); }
int nvmlSystemGetCudaDriverVersion_v2(int* version) { return *version = 13020, kOk; }
int nvmlDeviceGetCudaComputeCapability(Device, int* major, int* minor) {
  return *major = 9, *minor = 0, kOk;
}
int nvmlDeviceGetTotalEccErrors(Device, int, int, unsigned long long* count) {
  return *count = 0, kOk;
}
int nvmlDeviceGetRemappedRows(Device device, unsigned* a, unsigned* b, unsigned* pending,
                              unsigned* failed) {
  *a = *b = *failed = 0;
  *pending = Scenario() == "rows" && Index(device) == 2;
  return kOk;
}
int nvmlDeviceGetCurrentClocksEventReasons(Device, unsigned long long* reasons) {
  return *reasons = 1, kOk;
}
struct FieldValue {
  unsigned field, scope;
  long long timestamp, latency;
  int type, result;
  unsigned long long value;
};
int nvmlDeviceGetFieldValues(Device, int count, FieldValue* fields) {
  if (count == 1) fields->result = kOk, fields->value = 0;
  return kOk;
}
int nvmlDeviceGetCurrPcieLinkWidth(Device, unsigned* width) { return *width = 16, kOk; }
int nvmlDeviceGetMaxPcieLinkWidth(Device, unsigned* width) { return *width = 16, kOk; }
int nvmlDeviceGetCurrPcieLinkGeneration(Device, unsigned* g) { return *g = 5, kOk; }
int nvmlDeviceGetMaxPcieLinkGeneration(Device, unsigned* g) { return *g = 5, kOk; }
int nvmlDeviceGetPersistenceMode(Device, unsigned* on) { return *on = 1, kOk; }
int nvmlDeviceGetComputeMode(Device device, unsigned* mode) {
  *mode = 0;
  if (Scenario() == "exclusive") *mode = 3;
  if (Scenario() == "prohibited" && Index(device) == 0) *mode = 2;
  return kOk;
}
int nvmlDeviceGetEnforcedPowerLimit(Device, unsigned* mw) { return *mw = 700000, kOk; }
int nvmlDeviceGetPowerManagementDefaultLimit(Device, unsigned* mw) { return *mw = 700000, kOk; }
int nvmlDeviceGetTemperature(Device, int, unsigned* t) { return *t = 41, kOk; }
int nvmlDeviceGetNvLinkState(Device, unsigned link, unsigned* active) {
  if (link >= 18) return kNotFound;
  return *active = 1, kOk;
}
int nvmlDeviceGetMigMode(Device device, unsigned* now, unsigned* next) {
  *now = *next = Scenario() == "mig" && Index(device) == 0;
  return kOk;
}
int nvmlDeviceGetMaxMigDeviceCount(Device, unsigned* count) { return *count = 7, kOk; }
int nvmlDeviceGetMigDeviceHandleByIndex(Device device, unsigned index, Device* instance) {
  if (index >= 2) return kNotFound;
  *instance = Handle(kMigBase + Index(device) * 10 + index);
  return kOk;
}
struct Process {
  unsigned pid;
  unsigned long long memory;
  unsigned a, b;
};
int nvmlDeviceGetComputeRunningProcesses_v3(Device device, unsigned* count, Process* processes) {
  const bool busy = (Scenario() == "busy" || Scenario() == "exclusive") && Index(device) == 1;
  if (busy) processes[0] = {4000000, 1ull << 30, 0, 0};
  return *count = busy ? 1 : 0, kOk;
}
int nvmlDeviceGetTopologyCommonAncestor(Device, Device, unsigned* level) {
  return *level = 50, kOk;
}
int nvmlDeviceGetP2PStatus(Device, Device, int, int* status) { return *status = 0, kOk; }
int nvmlDeviceGetGpuFabricInfo(Device, void*) { return kNotSupported; }
#endif

}  // extern "C"
