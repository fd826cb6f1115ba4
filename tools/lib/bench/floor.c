/*
 * The floor: what no monitor can be quicker than. The ioctls that a machine with one guest needs, nothing read, nothing
 * checked, nothing confined; the guest's first byte goes to standard output.
 *
 * The usual floor is an ordinary static C program. With BARE not even a C library runs before its first call.
 * MEMORY is bytes of guest RAM, BYTE what the guest writes, IRQCHIP the request that makes the interrupt controller.
 */
#include <asm/unistd.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stddef.h>
#include <sys/mman.h>

#define COM1 0x3f8
#define CODE 0x100000
#define TABLES 0x9000

enum { PML4 = TABLES, POINTERS = TABLES + 0x1000, DIRECTORY = TABLES + 0x2000 };

static long call(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static _Noreturn void leave(int code)
{
	for (;;)
		call(__NR_exit_group, code, 0, 0, 0, 0, 0);
}

/* Which call failed is the exit code; `strace` tells why. */
static long must(int step, long result)
{
	if (result < 0 && result > -4096)
		leave(step);
	return result;
}

static long control(int step, long descriptor, long request, const void *argument)
{
	return must(step, call(__NR_ioctl, descriptor, request, (long)argument, 0, 0, 0));
}

static unsigned char *map(int step, size_t length, long flags, long descriptor)
{
	return (unsigned char *)must(step, call(__NR_mmap, 0, length, PROT_READ | PROT_WRITE, flags, descriptor, 0));
}

static void put64(unsigned char *memory, unsigned long at, unsigned long value)
{
	*(volatile unsigned long *)(memory + at) = value;
}

/* Long mode over one 2 MiB page that maps onto itself. */
static void set_registers(long vcpu, unsigned char *memory)
{
	/* Static, so that the compiler calls no memset for them. */
	static struct kvm_sregs sregs;
	static struct kvm_regs regs;
	static const struct kvm_segment code = {
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .l = 1, .s = 1, .g = 1,
	};
	static const struct kvm_segment data = {
		.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .db = 1, .s = 1, .g = 1,
	};

	put64(memory, PML4, POINTERS | 3);
	put64(memory, POINTERS, DIRECTORY | 3);
	put64(memory, DIRECTORY, 0x83);
	control(10, vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr3 = PML4;
	sregs.cr4 |= 0x20;
	sregs.cr0 |= 0x80000001;
	sregs.efer |= 0x500;
	control(11, vcpu, KVM_SET_SREGS, &sregs);
	regs.rip = CODE;
	regs.rflags = 2;
	control(12, vcpu, KVM_SET_REGS, &regs);
}

static _Noreturn void launch(void)
{
	/* mov dx, COM1; mov al, BYTE; out dx, al; hlt; jmp to the hlt */
	static const unsigned char guest[] = {0x66, 0xba, COM1 & 255, COM1 >> 8, 0xb0, BYTE, 0xee, 0xf4, 0xeb, 0xfd};
	static struct kvm_userspace_memory_region slot = {.memory_size = MEMORY};
	static struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
	volatile struct kvm_run *run;
	unsigned char *memory;
	long kvm, vm, vcpu;

	kvm = must(1, call(__NR_open, (long)"/dev/kvm", O_RDWR | O_CLOEXEC, 0, 0, 0, 0));
	memory = map(2, MEMORY, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1);
	for (size_t i = 0; i < sizeof guest; i++)
		((volatile unsigned char *)memory)[CODE + i] = guest[i];
	vm = control(3, kvm, KVM_CREATE_VM, NULL);
	slot.userspace_addr = (unsigned long)memory;
	control(4, vm, KVM_SET_USER_MEMORY_REGION, &slot);
	control(5, vm, IRQCHIP, IRQCHIP == KVM_ENABLE_CAP ? &split : NULL);
	vcpu = control(6, vm, KVM_CREATE_VCPU, NULL);
	run = (volatile struct kvm_run *)map(8, control(7, kvm, KVM_GET_VCPU_MMAP_SIZE, NULL), MAP_SHARED, vcpu);
	set_registers(vcpu, memory);
	for (;;) {
		control(13, vcpu, KVM_RUN, NULL);
		if (run->exit_reason != KVM_EXIT_IO || run->io.port != COM1)
			leave(14);
		must(15, call(__NR_write, 1, (long)run + run->io.data_offset, 1, 0, 0, 0));
	}
}

#ifdef BARE
/* The kernel enters with the stack aligned to 16 bytes and nothing to return to; a C function expects a call to have misaligned it. */
_Noreturn void _start(void);

__attribute__((force_align_arg_pointer)) void _start(void)
{
	launch();
}
#else
int main(void)
{
	launch();
}
#endif
