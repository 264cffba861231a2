#include "pyneurons/cpu_features.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>

#if defined(__x86_64__)
#  include <cpuid.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#  include <sys/syscall.h>
#  include <unistd.h>
#endif

namespace pyneurons {
namespace {

constexpr std::array<std::string_view, isa_count> names = {"scalar", "avx2", "avx512", "avx512bf16",
                                                           "amx"};

struct Support {
  bool avx2 = false;
  bool avx512 = false;
  bool avx512bf16 = false;
  bool amx = false;
};

#if defined(__x86_64__)

std::uint64_t xcr0() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  // The instruction itself, because the intrinsic needs a flag that this file must not have.
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (std::uint64_t{high} << 32) | low;
}

bool all(std::uint32_t value, std::uint32_t bits) {
  return (value & bits) == bits;
}

/// Whether the system lets this process have the tile registers, which it gives on request only.
bool request_tiles() {
#  if defined(__linux__)
  constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long tile_data = 18;
  return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#  else
  return false;
#  endif
}

Support ask_processor() {
  Support support;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) {
    return support;
  }
  constexpr std::uint32_t fma = 1u << 12;
  constexpr std::uint32_t popcnt = 1u << 23;
  constexpr std::uint32_t osxsave = 1u << 27;
  constexpr std::uint32_t avx = 1u << 28;
  if (!all(ecx, fma | popcnt | osxsave | avx)) {
    return support;
  }
  unsigned ext_eax = 0;
  unsigned ext_ebx = 0;
  unsigned ext_ecx = 0;
  unsigned ext_edx = 0;
  constexpr std::uint32_t lzcnt = 1u << 5;
  if (__get_cpuid(0x80000001u, &ext_eax, &ext_ebx, &ext_ecx, &ext_edx) == 0 ||
      !all(ext_ecx, lzcnt)) {
    return support;
  }
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) {
    return support;
  }
  constexpr std::uint32_t bmi1 = 1u << 3;
  constexpr std::uint32_t avx2 = 1u << 5;
  constexpr std::uint32_t bmi2 = 1u << 8;
  constexpr std::uint32_t avx512f = 1u << 16;
  constexpr std::uint32_t avx512dq = 1u << 17;
  constexpr std::uint32_t avx512bw = 1u << 30;
  constexpr std::uint32_t avx512vl = 1u << 31;
  constexpr std::uint64_t ymm = 0x06;       // XMM, YMM
  constexpr std::uint64_t zmm = 0xE6;       // and opmask, the upper half of ZMM0-15, ZMM16-31
  constexpr std::uint64_t tiles = 0x60000;  // TILECFG, TILEDATA
  constexpr std::uint32_t amx_bf16 = 1u << 22;
  constexpr std::uint32_t amx_tile = 1u << 24;
  constexpr std::uint32_t avx512_bf16 = 1u << 5;
  const std::uint64_t saved = xcr0();
  support.avx2 = all(ebx, bmi1 | avx2 | bmi2) && (saved & ymm) == ymm;
  support.avx512 =
      support.avx2 && all(ebx, avx512f | avx512dq | avx512bw | avx512vl) && (saved & zmm) == zmm;
  const bool has_tiles = all(edx, amx_bf16 | amx_tile) && (saved & tiles) == tiles;
  support.avx512bf16 = support.avx512 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
                       all(eax, avx512_bf16);
  support.amx = support.avx512bf16 && has_tiles && request_tiles();
  return support;
}

#else

Support ask_processor() {
  return {};
}

#endif

}  // namespace

std::string_view isa_name(Isa isa) {
  return names[static_cast<std::size_t>(isa)];
}

std::optional<Isa> isa_from_name(std::string_view name) {
  for (int i = 0; i < isa_count; ++i) {
    if (names[static_cast<std::size_t>(i)] == name) {
      return static_cast<Isa>(i);
    }
  }
  return std::nullopt;
}

bool cpu_supports(Isa isa) {
  static const Support support = ask_processor();
  // For an emulator that answers the traps of these instructions (tests/helpers/amx_emulator.c).
  static const bool emulated_amx = std::getenv("PYNEURONS_ASSUME_AMX") != nullptr;
  switch (isa) {
    case Isa::scalar:
      return true;
    case Isa::avx2:
      return support.avx2;
    case Isa::avx512:
      return support.avx512;
    case Isa::avx512bf16:
      return support.avx512bf16;
    case Isa::amx:
      return support.amx || (support.avx512bf16 && emulated_amx);
  }
  return false;
}

}  // namespace pyneurons
