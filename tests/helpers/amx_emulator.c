/* AMX on a processor that lacks it: preloaded, it answers the trap of each tile instruction.
 *
 * What the compiler made of the kernels for AMX so runs on any x86-64 Linux machine, slowly: their
 * tile configuration, addresses, strides and operands are tested, not only their source. The six
 * instructions that the kernels use, as Intel's manual defines them; anything else ends the
 * process. TDPBF16PS sums as the hardware does: a chain of fused multiply-adds over the even
 * products, one over the odd ones, their sum added, denormals taken for 0. */
#define _GNU_SOURCE
#include <immintrin.h>
#include <math.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ucontext.h>
#include <unistd.h>

enum { tiles = 8, tile_rows = 16, tile_bytes = 64 };

static _Thread_local struct {
  int configured;
  uint16_t row_bytes[tiles];
  uint8_t rows[tiles];
  uint8_t data[tiles][tile_rows][tile_bytes];
} amx;

static void give_up(const uint8_t* code) {
  fprintf(stderr, "amx_emulator: an instruction that it does not know:");
  for (int i = 0; i < 12; ++i) {
    fprintf(stderr, " %02x", code[i]);
  }
  fprintf(stderr, "\n");
  _exit(99);
}

static uint64_t general_register(const ucontext_t* context, int number) {
  static const int place[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                REG_R12, REG_R13, REG_R14, REG_R15};
  return (uint64_t)context->uc_mcontext.gregs[place[number]];
}

static float widened(const uint8_t* bfloat16) {
  uint16_t bits;
  memcpy(&bits, bfloat16, sizeof bits);
  const uint32_t wide = (uint32_t)bits << 16;
  float value;
  memcpy(&value, &wide, sizeof value);
  return value;
}

static void tdpbf16ps(int sum, int left, int right) {
  const unsigned control = _mm_getcsr();
  _mm_setcsr(0x1F80 | 0x8040); /* nearest even, denormals are 0 */
  for (int m = 0; m < amx.rows[sum]; ++m) {
    for (int n = 0; n < amx.row_bytes[sum]; n += 4) {
      float even = 0;
      float odd = 0;
      for (int k = 0; k < amx.row_bytes[left]; k += 4) {
        const uint8_t* a = amx.data[left][m] + k;
        const uint8_t* b = amx.data[right][k / 4] + n;
        even = fmaf(widened(a), widened(b), even);
        odd = fmaf(widened(a + 2), widened(b + 2), odd);
      }
      float value;
      memcpy(&value, amx.data[sum][m] + n, sizeof value);
      value += even + odd;
      memcpy(amx.data[sum][m] + n, &value, sizeof value);
    }
  }
  _mm_setcsr(control);
}

static void load_configuration(const uint8_t* code, const uint8_t* source) {
  memset(&amx, 0, sizeof amx);
  for (int i = 0; i < 64; ++i) {
    const int reserved = (i >= 2 && i < 16) || (i >= 32 && i < 48) || i >= 56;
    if ((i == 0 && source[i] != 1) || (reserved && source[i] != 0)) {
      give_up(code);
    }
  }
  for (int tile = 0; tile < tiles; ++tile) {
    memcpy(&amx.row_bytes[tile], source + 16 + 2 * tile, 2);
    amx.rows[tile] = source[48 + tile];
    if (amx.row_bytes[tile] > tile_bytes || amx.rows[tile] > tile_rows) {
      give_up(code);
    }
  }
  amx.configured = 1;
}

/* VEX.128.0F38.W0 with a three-byte prefix: 49 configuration, zeros, 4B load and store, 5C product.
 */
static void answer(int number, siginfo_t* information, void* context_) {
  (void)number;
  (void)information;
  ucontext_t* context = context_;
  const uint8_t* code = (const uint8_t*)context->uc_mcontext.gregs[REG_RIP];
  if (code[0] != 0xC4 || (code[1] & 0x1F) != 2 || (code[2] & 0x84) != 0) {
    give_up(code);
  }
  const int high_reg = (code[1] & 0x80) ? 0 : 8;
  const int high_index = (code[1] & 0x40) ? 0 : 8;
  const int high_base = (code[1] & 0x20) ? 0 : 8;
  const int third = (~(code[2] >> 3)) & 15;
  const int prefix = code[2] & 3; /* 0 none, 1 66, 2 F3, 3 F2 */
  const int opcode = code[3];
  const int mode = code[4] >> 6;
  const int reg = ((code[4] >> 3) & 7) | high_reg;
  const int rm = code[4] & 7;
  const uint8_t* next = code + 5;
  uint64_t address = 0;
  uint64_t stride = 0;
  if (mode != 3) {
    if (rm == 4) {
      const int base = (*next & 7) | high_base;
      const int index = ((*next >> 3) & 7) | high_index;
      if (mode == 0 && (*next & 7) == 5) {
        give_up(code);
      }
      address = general_register(context, base);
      stride = index == 4 ? 0 : general_register(context, index) << (*next >> 6);
      ++next;
    } else if (mode == 0 && rm == 5) {
      give_up(code);
    } else {
      address = general_register(context, rm | high_base);
    }
    if (mode == 1) {
      address += (uint64_t)(int64_t)(int8_t)*next;
      next += 1;
    } else if (mode == 2) {
      int32_t offset;
      memcpy(&offset, next, sizeof offset);
      address += (uint64_t)(int64_t)offset;
      next += 4;
    }
  }
  if (opcode == 0x49 && prefix == 3 && mode == 3 && rm == 0 && reg < tiles && amx.configured) {
    memset(amx.data[reg], 0, sizeof amx.data[reg]);
  } else if (opcode == 0x49 && prefix == 0 && mode == 3) {
    memset(&amx, 0, sizeof amx);
  } else if (opcode == 0x49 && prefix == 0) {
    load_configuration(code, (const uint8_t*)(address + stride));
  } else if (!amx.configured || reg >= tiles) {
    give_up(code);
  } else if (opcode == 0x4B && mode != 3 && rm == 4 && prefix != 0) {
    for (int row = 0; row < amx.rows[reg]; ++row) {
      void* place = (void*)(address + (uint64_t)row * stride);
      if (prefix == 2) {
        memcpy(place, amx.data[reg][row], amx.row_bytes[reg]);
      } else {
        memcpy(amx.data[reg][row], place, amx.row_bytes[reg]);
      }
    }
  } else if (opcode == 0x5C && prefix == 2 && mode == 3 && third < tiles) {
    tdpbf16ps(reg, rm, third);
  } else {
    give_up(code);
  }
  context->uc_mcontext.gregs[REG_RIP] = (greg_t)next;
}

__attribute__((constructor)) static void install(void) {
  struct sigaction action;
  memset(&action, 0, sizeof action);
  action.sa_sigaction = answer;
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  sigaction(SIGILL, &action, NULL);
}
