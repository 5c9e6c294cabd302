// Lets envkit-launch run on any glibc from 2.28 on, whatever it was built on: a program that is
// linked against a newer glibc asks for that one's symbol versions, though what stands behind them
// has hardly changed. The linker (--wrap in standalone.cmake) leads each such symbol here, and here
// is what an old glibc has as well. tests/integration/launch_glibc.py reads the result.
//
// Not for sanitizers, which bring their own of these.
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>

#if defined(__x86_64__)
#define ENVKIT_OLDEST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define ENVKIT_OLDEST "GLIBC_2.17"
#else
#error "which version of glibc was the first for this processor?"
#endif

// The names are the linker's, and a program header has addresses as numbers.
// NOLINTBEGIN(bugprone-reserved-identifier,cert-*,performance-no-int-to-ptr)
extern "C" {

// 2.34 gave the start a new version, because programs no longer bring their own loop over the
// constructors. Ours does again: the old start calls it, and the new one does for old programs.
using Main = int (*)(int, char**, char**);
using Start = void (*)(int, char**, char**);
extern Start __init_array_start[] __attribute__((visibility("hidden")));
extern Start __init_array_end[] __attribute__((visibility("hidden")));
void _init();
int OldStart(Main main, int argc, char** argv, Start init, void (*fini)(), void (*rtld_fini)(),
             void* stack_end);
__asm__(".symver OldStart, __libc_start_main@" ENVKIT_OLDEST);

static void Construct(int argc, char** argv, char** env) {
  _init();
  for (Start* one = __init_array_start; one != __init_array_end; ++one) (*one)(argc, argv, env);
}

int __wrap___libc_start_main(Main main, int argc, char** argv, Start, void (*)(),
                             void (*rtld_fini)(), void* stack_end) {
  return OldStart(main, argc, argv, Construct, nullptr, rtld_fini, stack_end);
}

// 2.34 moved these from libdl into libc. Both libraries are named, so either place is found.
void* OldOpen(const char* file, int mode);
void* OldSymbol(void* handle, const char* name);
__asm__(".symver OldOpen, dlopen@" ENVKIT_OLDEST);
__asm__(".symver OldSymbol, dlsym@" ENVKIT_OLDEST);
void* __wrap_dlopen(const char* file, int mode) { return OldOpen(file, mode); }
void* __wrap_dlsym(void* handle, const char* name) { return OldSymbol(handle, name); }

// 2.34 as well, from libpthread. The launcher has one thread.
int __wrap_pthread_once(pthread_once_t* once, void (*call)()) {
  enum { kNever, kRunning, kDone };
  int expected = kNever;
  if (__atomic_compare_exchange_n(once, &expected, kRunning, false, __ATOMIC_ACQ_REL,
                                  __ATOMIC_ACQUIRE)) {
    call();
    __atomic_store_n(once, kDone, __ATOMIC_RELEASE);
  }
  while (__atomic_load_n(once, __ATOMIC_ACQUIRE) != kDone) {
  }
  return 0;
}
int __wrap___pthread_key_create(pthread_key_t*, void (*)(void*)) {
  return ENOSYS;
}  // only asked for
char __wrap___libc_single_threaded = 0;  // 2.32; 0 costs an atomic instruction here and there

// 2.33 made functions of what had been macros over __xstat.
static int StatAt(int directory, const char* path, struct stat* to, int flags) {
  return static_cast<int>(syscall(SYS_newfstatat, directory, path, to, flags));
}
int __wrap_stat(const char* path, struct stat* to) { return StatAt(AT_FDCWD, path, to, 0); }
int __wrap_lstat(const char* path, struct stat* to) {
  return StatAt(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
}
int __wrap_fstat(int fd, struct stat* to) { return StatAt(fd, "", to, AT_EMPTY_PATH); }
int __wrap_fstatat(int directory, const char* path, struct stat* to, int flags) {
  return StatAt(directory, path, to, flags);
}
int __wrap_stat64(const char* path, struct stat* to) { return StatAt(AT_FDCWD, path, to, 0); }
int __wrap_lstat64(const char* path, struct stat* to) {
  return StatAt(AT_FDCWD, path, to, AT_SYMLINK_NOFOLLOW);
}
int __wrap_fstat64(int fd, struct stat* to) { return StatAt(fd, "", to, AT_EMPTY_PATH); }
int __wrap_fstatat64(int directory, const char* path, struct stat* to, int flags) {
  return StatAt(directory, path, to, flags);
}

// 2.36, for std::random_device. getrandom is of 2.25.
unsigned __wrap_arc4random() {
  unsigned number = 0;
  while (getrandom(&number, sizeof number, 0) != static_cast<ssize_t>(sizeof number)) {
  }
  return number;
}

// 2.38: C23's, which take "0b1" as well. The names behind `asm` are the old ones, whatever
// <cstdlib> makes of strtol here.
long OldStrtol(const char*, char**, int) __asm__("strtol");
unsigned long OldStrtoul(const char*, char**, int) __asm__("strtoul");
long long OldStrtoll(const char*, char**, int) __asm__("strtoll");
unsigned long long OldStrtoull(const char*, char**, int) __asm__("strtoull");
long __wrap___isoc23_strtol(const char* text, char** end, int base) {
  return OldStrtol(text, end, base);
}
unsigned long __wrap___isoc23_strtoul(const char* text, char** end, int base) {
  return OldStrtoul(text, end, base);
}
long long __wrap___isoc23_strtoll(const char* text, char** end, int base) {
  return OldStrtoll(text, end, base);
}
unsigned long long __wrap___isoc23_strtoull(const char* text, char** end, int base) {
  return OldStrtoull(text, end, base);
}

// 2.35: where the unwinder finds the tables of the object that an address lies in.
struct FoundObject {  // struct dl_find_object
  unsigned long long flags;
  void* map_start;
  void* map_end;
  link_map* map;
  void* eh_frame;
  unsigned long long reserved[7];
};
struct ObjectSearch {
  ElfW(Addr) address;
  FoundObject* found;
};
static int LookAt(dl_phdr_info* info, std::size_t, void* data) {
  const auto& search = *static_cast<ObjectSearch*>(data);
  ElfW(Addr) start = ~ElfW(Addr){0}, end = 0, table = 0;
  bool inside = false;
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const ElfW(Phdr)& part = info->dlpi_phdr[i];
    const ElfW(Addr) from = info->dlpi_addr + part.p_vaddr;
    if (part.p_type == PT_GNU_EH_FRAME) table = from;
    if (part.p_type != PT_LOAD) continue;
    inside |= search.address >= from && search.address < from + part.p_memsz;
    if (from < start) start = from;
    if (from + part.p_memsz > end) end = from + part.p_memsz;
  }
  if (!inside || table == 0) return 0;
  *search.found = {0,       reinterpret_cast<void*>(start), reinterpret_cast<void*>(end),
                   nullptr, reinterpret_cast<void*>(table), {}};
  return 1;
}
int __wrap__dl_find_object(void* address, FoundObject* found) {
  ObjectSearch search{reinterpret_cast<ElfW(Addr)>(address), found};
  return dl_iterate_phdr(LookAt, &search) == 1 ? 0 : -1;
}

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier,cert-*,performance-no-int-to-ptr)
