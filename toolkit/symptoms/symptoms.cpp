#include "symptoms/symptoms.h"

#include <algorithm>
#include <cctype>

#include "base/text.h"

namespace envkit {
namespace {

// Do the parts between the pattern's stars follow each other in LINE? Both in lower case.
bool Holds(std::string_view line, std::string_view pattern) {
  std::size_t at = 0;
  while (!pattern.empty()) {
    const std::string_view part = pattern.substr(0, pattern.find('*'));
    at = line.find(part, at);
    if (at == line.npos) return false;
    at += part.size();
    pattern.remove_prefix(std::min(pattern.size(), part.size() + 1));
  }
  return true;
}

std::vector<Symptom> Table() {
  return {
      // Getting a container
      {"docker-no-gpu-hook",
       {"could not select device driver * capabilities: [[gpu]]"},
       "Docker found nothing that gives GPUs to containers: the NVIDIA Container Toolkit is not "
       "installed, or was installed after the daemon started.",
       "Install nvidia-container-toolkit, then: sudo systemctl restart docker",
       "D03"},
      {"docker-no-cdi",
       {"failed to discover gpu vendor from cdi", "no known gpu vendor found"},
       "This Docker takes GPUs from CDI specifications, and there is none.",
       "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml",
       "D03"},
      {"runtime-unknown",
       {"unknown or invalid runtime name: nvidia", "unknown runtime specified nvidia"},
       "Docker was not told of a runtime called \"nvidia\".",
       "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker",
       "D04"},
      {"cdi-unresolvable",
       {"unresolvable cdi devices"},
       "The engine has no CDI specification that names this device.",
       "sudo nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml",
       "D05"},
      {"require-cuda",
       {"unsatisfied condition: cuda", "requirement error: unsatisfied condition"},
       "The image asks for a newer driver than this host has (its NVIDIA_REQUIRE_CUDA).",
       "Update the driver, or use an image for an older CUDA.",
       "I01"},
      {"container-no-driver",
       {"load library failed: libnvidia-ml.so", "nvidia-container-cli: initialization error"},
       "The host's driver libraries were not found. The toolkit is there; the driver is not.",
       "Install the NVIDIA driver on the host, not in the image.",
       "D02"},
      {"docker-permission",
       {"permission denied while trying to connect to the docker daemon"},
       "This user may not open Docker's socket.",
       "sudo usermod -aG docker $USER, then log in again; or: --engine oci",
       "D01"},
      {"docker-down",
       {"cannot connect to the docker daemon", "failed to connect to the docker api"},
       "No Docker daemon answers at that address.",
       "sudo systemctl start docker; or use the engine that needs none: --engine oci",
       "D01"},
      // The driver
      {"driver-mismatch",
       {"driver/library version mismatch", "nvrm: api mismatch"},
       "The loaded kernel module and the driver's libraries are of different versions: the driver "
       "was updated and the old module is still loaded.",
       "Reboot, or stop what uses the GPUs and reload the modules.",
       "H03"},
      {"driver-not-loaded",
       {"couldn't communicate with the nvidia driver", "nvidia driver is not loaded",
        "found no nvidia driver on your system"},
       "NVIDIA's kernel module is not loaded (or, in a container, its GPUs were not passed in).",
       "envkit doctor on the host says why",
       "H02"},
      {"no-devices",
       {"no devices were found"},
       "The driver runs and accepts none of the GPUs: the wrong flavour of kernel module for them, "
       "or they failed to start.",
       "sudo dmesg | grep NVRM",
       "H06"},
      {"error-802",
       {"error 802", "system not yet initialized", "cudaerrorsystemnotready"},
       "The GPUs hang together by NVSwitch, and the fabric manager is not running or is not of the "
       "driver's version.",
       "Install nvidia-fabricmanager of exactly the driver's version, then: sudo systemctl enable "
       "--now nvidia-fabricmanager",
       "H18"},
      {"error-803",
       {"error 803", "unsupported display driver / cuda driver combination",
        "cudaerrorsystemdrivermismatch"},
       "libcuda.so.1 is not of the loaded kernel module's version: a stale copy comes first.",
       "Look for a second libcuda: ldconfig -p | grep libcuda; echo $LD_LIBRARY_PATH",
       "H04"},
      {"error-804",
       {"error 804", "forward compatibility was attempted on non supported hw",
        "cudaerrorcompatnotsupportedondevice"},
       "The image's cuda-compat library was loaded, which works on data-centre GPUs only.",
       "Take the compat directory off LD_LIBRARY_PATH, and use a driver that is new enough.",
       "I03"},
      {"driver-too-old",
       {"nvidia driver on your system is too old", "cuda driver version is insufficient for cuda",
        "error 35:"},
       "This build of CUDA needs a newer driver.",
       "Update the driver, or lock a build for an older CUDA: [environment] cuda in envkit.toml",
       "I02"},
      {"nvml-unknown",
       {"failed to initialize nvml: unknown error"},
       "The container lost its GPUs: after systemctl daemon-reload systemd takes device nodes away "
       "that the NVIDIA hook added behind its back.",
       "Start it anew; for good: use CDI, or link the devices: sudo nvidia-ctk system "
       "create-dev-char-symlinks --create-all",
       "D10"},
      {"nvml-permission",
       {"failed to initialize nvml: insufficient permissions"},
       "SELinux keeps the container from the device nodes.",
       "docker run --security-opt label=disable …",
       "D12"},
      {"gpu-lost",
       {"gpu is lost", "gpu has fallen off the bus",
        "unable to determine the device handle for gpu"},
       "A GPU no longer answers on the PCI bus.",
       "Reboot; when it comes back, look at power, cooling and seating.",
       "H11"},
      {"no-device",
       {"no cuda-capable device is detected", "no cuda gpus are available", "error 100:"},
       "CUDA sees no GPU: none was passed into the container, or CUDA_VISIBLE_DEVICES hides them.",
       "echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES; ls -l /dev/nvidia*",
       "I04"},
      {"ecc",
       {"uncorrectable ecc error", "uncorrectable nvlink error"},
       "A GPU's memory (or link) has an error that it could not correct.",
       "Drain the machine and reset the GPU: sudo nvidia-smi --gpu-reset; if it returns, replace "
       "it.",
       "H13"},
      // The build against the GPU
      {"no-kernel-image",
       {"no kernel image is available for execution",
        "not compatible with the current pytorch install", "cudaerrornokernelimagefordevice"},
       "This build of PyTorch holds no code for this GPU's generation.",
       "Lock a build that does: newer GPUs need a newer CUDA, old ones an older (envkit matrix)",
       "I05"},
      {"ptx-too-new",
       {"the provided ptx was compiled with an unsupported toolchain", "error 222:"},
       "Kernels were compiled by a CUDA that is newer than this driver's.",
       "Update the driver to the toolkit's own, or compile with an older CUDA.",
       "I02"},
      {"nccl-symbol",
       {"undefined symbol: nccl"},
       "Another NCCL than torch's own is loaded first.",
       "Take it off LD_LIBRARY_PATH; keep one of nvidia-nccl-cu12 and nvidia-nccl-cu13.",
       "I06"},
      {"cudnn-version",
       {"cudnn version incompatibility", "cudnn_status_not_initialized",
        "cudnn_status_sublibrary_version_mismatch", "libcudnn*cannot open shared object"},
       "Another cuDNN than torch's own is loaded first, or parts of it are missing. Where memory "
       "is "
       "short, NOT_INITIALIZED means that.",
       "Take it off LD_LIBRARY_PATH: echo $LD_LIBRARY_PATH",
       "I07"},
      {"glibcxx",
       {"version `glibcxx_*not found", "version `cxxabi_*not found", "version `glibc_2.*not found"},
       "The program was built for a newer system than this base image (or a conda library comes "
       "first).",
       "Use a newer base, or take conda's lib off LD_LIBRARY_PATH.",
       "I09"},
      {"torchvision-mismatch",
       {"operator torchvision::nms does not exist", "couldn't load custom c++ ops"},
       "torch and torchvision are of different releases or for different CUDA versions.",
       "Install the pair of one release; envkit lock does.",
       "I10"},
      {"cpu-build",
       {"torch not compiled with cuda enabled"},
       "This is a CPU build of PyTorch.",
       "envkit run --variant cuda, or install the build for CUDA",
       "I10"},
      // A run
      {"shm-full",
       {"failed to extend /dev/shm/nccl", "insufficient shared memory (shm)",
        "/dev/shm*no space left on device", "unable to open shared memory object",
        "bus error*shared memory", "dataloader worker*killed by signal: bus error"},
       "Shared memory (/dev/shm) is full; a container's default is 64 MB.",
       "docker run --shm-size=16g (or --ipc=host); envkit.toml: [run] shm = \"16g\"",
       "R01"},
      {"memlock",
       {"ibv_reg_mr*failed", "cannot allocate memory*ibv", "ibv_create_cq*cannot allocate memory"},
       "InfiniBand may not pin enough memory.",
       "docker run --ulimit memlock=-1; on the host: /etc/security/limits.d",
       "R02"},
      {"too-many-files",
       {"too many open files", "received 0 items of ancdata"},
       "A process may not open so many files; data loaders open many.",
       "ulimit -n 65536, or docker run --ulimit nofile=1048576",
       "R02"},
      {"port-taken",
       {"address already in use", "eaddrinuse"},
       "Another process listens on this port, often the last run.",
       "Leave out --master-port, or find it: ss -ltnp",
       "R03"},
      {"no-interface",
       {"bootstrap : no socket interface found", "no interface found in the same subnet"},
       "NCCL found no network interface of the name that it was given.",
       "ip -brief address; then set NCCL_SOCKET_IFNAME to one that is up, or unset it",
       "R04"},
      {"gloo-hostname",
       {"gloo*unable to resolve hostname", "gloo*connectfullmesh failed",
        "unable to find address for"},
       "The machine's name does not resolve to an address that the ranks can reach.",
       "Put it into /etc/hosts, or: export GLOO_SOCKET_IFNAME=eth0",
       "R10"},
      {"duplicate-gpu",
       {"duplicate gpu detected", "multiple ranks are using the same gpu"},
       "Two ranks were given the same GPU; NCCL does not do that.",
       "Start one rank per GPU, and choose the device by LOCAL_RANK.",
       "R05"},
      {"nccl-versions",
       {"mismatched nccl version detected"},
       "The nodes run different versions of NCCL.",
       "Use the same image on all nodes: compare envkit image inspect",
       ""},
      {"oom-killed",
       {"out of memory: killed process", "oomkilled", "killed by signal: killed"},
       "The kernel ended the process because memory ran out.",
       "Fewer data loader workers, a smaller batch, or a higher --memory.",
       "R07"},
      {"cuda-oom",
       {"cuda out of memory", "outofmemoryerror", "error 2: out of memory"},
       "The GPU's memory is full: by this job, or by another process on the same GPU.",
       "A smaller batch, or free the GPU: nvidia-smi names who uses it.",
       "R08"},
      {"cublas-memory",
       {"cublas_status_not_initialized", "cublas_status_alloc_failed"},
       "cuBLAS could not start, most often because the GPU's memory is full.",
       "A smaller batch, or free the GPU: nvidia-smi names who uses it.",
       "R08"},
      {"device-assert",
       {"device-side assert triggered"},
       "A kernel's own check failed: usually an index out of range, such as a label that is not "
       "below the number of classes. The line that is named is often not the one.",
       "Run once with CUDA_LAUNCH_BLOCKING=1 to see the right line.",
       ""},
      {"illegal-access",
       {"an illegal memory access was encountered"},
       "A kernel read or wrote outside its memory: a defect of the program or of a library.",
       "Run once with CUDA_LAUNCH_BLOCKING=1; with NCCL, look at its version: envkit doctor",
       "I08"},
      {"watchdog",
       {"watchdog caught collective operation timeout"},
       "A collective did not end: one rank died, hangs or took another way through the program.",
       "Find the rank that is missing in the logs; then look at Xids, ACS and the network.",
       "H12"},
      {"nccl-system",
       {"unhandled system error"},
       "A system call of NCCL failed: shared memory, locked memory or the network.",
       "Run once with NCCL_DEBUG=INFO: the line before this one names the call.",
       "R01"},
      {"nccl-remote",
       {"ncclremoteerror", "remote process exited or there was a network error",
        "connection reset by peer*nccl"},
       "Another rank ended first, or the network between the nodes failed.",
       "Look at the rank that ended first: its log has the cause.",
       ""},
      {"nccl-cuda",
       {"unhandled cuda error"},
       "A CUDA call inside NCCL failed; on one machine often peer-to-peer access.",
       "Run once with NCCL_DEBUG=INFO; then with NCCL_P2P_DISABLE=1 to compare.",
       "H22"},
      {"nccl-any",
       {"nccl error", "ncclunhandled", "ncclinternalerror", "ncclsystemerror"},
       "NCCL failed.",
       "Run once with NCCL_DEBUG=INFO: its first WARN names the cause.",
       ""},
      {"disk-full",
       {"no space left on device", "disk quota exceeded"},
       "A disk (or its quota) is full.",
       "df -h, and envkit's own part: envkit image prune",
       "R12"},
      {"userns",
       {"unshare*operation not permitted", "clone*newuser*", "newuidmap*failed",
        "cannot clone: operation not permitted"},
       "This machine does not let ordinary users make user namespaces, which running containers "
       "without a daemon needs.",
       "envkit doctor names the setting",
       "D14"},
  };
}

}  // namespace

const std::vector<Symptom>& AllSymptoms() {
  static const std::vector<Symptom> table = Table();
  return table;
}

std::optional<Symptom> Explain(std::string_view text) {
  constexpr std::size_t kMost = std::size_t{256} << 10;
  if (text.size() > kMost) text.remove_prefix(text.size() - kMost);
  const std::string lower = Lower(text);
  for (const Symptom& symptom : AllSymptoms()) {
    std::string_view rest = lower;
    while (!rest.empty()) {
      const std::string_view line = rest.substr(0, rest.find('\n'));
      rest.remove_prefix(std::min(rest.size(), line.size() + 1));
      for (const std::string& pattern : symptom.patterns)
        if (Holds(line, pattern)) return symptom;
    }
  }
  return std::nullopt;
}

}  // namespace envkit
