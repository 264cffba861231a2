/* Makes the N-th large allocation of a process fail: preloaded, armed by `allocations_arm`.
 *
 * Large is 128 KiB and more, from malloc, calloc, realloc, aligned_alloc, posix_memalign, memalign
 * or an anonymous mmap: arrays and scratch of the native code, NumPy and torch. Python's own
 * objects are smaller, and what Python does when it finds no room for one of them is not what is
 * tried here.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

enum { LARGE = 128 << 10 };

static atomic_long target = -1; /* -1: not armed */
static atomic_long seen;

void allocations_arm(int number) {
  atomic_store(&target, number);
  if (number >= 0) {
    atomic_store(&seen, 0);
  }
}

/* How many large allocations there were since it was armed. */
int allocations_seen(void) {
  return (int)atomic_load(&seen);
}

static int fails(size_t size) {
  if (size < LARGE || atomic_load_explicit(&target, memory_order_relaxed) < 0) {
    return 0;
  }
  return atomic_fetch_add(&seen, 1) + 1 == atomic_load(&target);
}

/* dlsym may itself ask for memory: a few bytes, before the program has begun. */
static char early[1 << 16];
static size_t early_used;

static void* early_memory(size_t size) {
  void* found = early + early_used;
  early_used += (size + 63) / 64 * 64;
  return early_used <= sizeof early ? found : NULL;
}

static int is_early(const void* bytes) {
  return (const char*)bytes >= early && (const char*)bytes < early + sizeof early;
}

#define NEXT(name, result, ...)                             \
  static result (*next)(__VA_ARGS__);                       \
  if (next == NULL) {                                       \
    next = (result (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name); \
  }

#define REFUSE(size) \
  if (fails(size)) { \
    errno = ENOMEM;  \
    return NULL;     \
  }

void* malloc(size_t size) {
  NEXT("malloc", void*, size_t)
  REFUSE(size)
  return next(size);
}

void* calloc(size_t number, size_t size) {
  static _Thread_local int inside;
  static void* (*next)(size_t, size_t);
  if (next == NULL) {
    if (inside) {
      return early_memory(number * size);
    }
    inside = 1;
    next = (void* (*)(size_t, size_t))dlsym(RTLD_NEXT, "calloc");
    inside = 0;
  }
  REFUSE(number * size)
  return next(number, size);
}

void* realloc(void* bytes, size_t size) {
  NEXT("realloc", void*, void*, size_t)
  REFUSE(size)
  return next(bytes, size);
}

void free(void* bytes) {
  NEXT("free", void, void*)
  if (!is_early(bytes)) {
    next(bytes);
  }
}

void* aligned_alloc(size_t alignment, size_t size) {
  NEXT("aligned_alloc", void*, size_t, size_t)
  REFUSE(size)
  return next(alignment, size);
}

void* memalign(size_t alignment, size_t size) {
  NEXT("memalign", void*, size_t, size_t)
  REFUSE(size)
  return next(alignment, size);
}

int posix_memalign(void** into, size_t alignment, size_t size) {
  NEXT("posix_memalign", int, void**, size_t, size_t)
  if (fails(size)) {
    return ENOMEM;
  }
  return next(into, alignment, size);
}

void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
  NEXT("mmap", void*, void*, size_t, int, int, int, off_t)
  if ((flags & MAP_ANONYMOUS) && fails(size)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return next(address, size, protection, flags, file, offset);
}

void* mmap64(void* address, size_t size, int protection, int flags, int file, off_t offset) {
  return mmap(address, size, protection, flags, file, offset);
}
