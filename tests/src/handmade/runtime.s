# What all hand-made guests share: the serial port by polling, the ways to end, interrupt gates.
#
# All guests are one image, linked nowhere: code and data reach each other by relative addresses only, so that the image
# runs wherever it is loaded. It is loaded writable.

.set COM1, 0x3f8
.set COM1_INTERRUPT_ENABLE, COM1 + 1
.set COM1_FIFO_CONTROL, COM1 + 2
.set COM1_MODEM_CONTROL, COM1 + 4
.set COM1_LINE_STATUS, COM1 + 5
.set COM1_SCRATCH, COM1 + 7
.set DATA_READY, 1
.set TRANSMITTER_EMPTY, 0x20

.set SLEEP_CONTROL, 0x600
.set RESET, 0x602
.set S5, (5 << 2) | (1 << 5)
.set I8042_COMMAND, 0x64
.set MARKER, 0x80

# Free memory below 1 MiB: see the monitor's address map.
.set TRAMPOLINE, 0x3000
.set AWAKE, 0x3ff0
.set BOOT_PDPT, 0xa000
.set IDT, 0x10000
.set DEVICE_DIRECTORY, 0x11000
.set UNTOUCHED, 0x40000

.set HOLE, 0xc0000000
.set ABSENT, 0xd0000000
.set IOAPIC, 0xfec00000
.set COM1_PIN, 0                         # of the I/O APIC
.set EVENTS_PIN, 1

# The instructions of these routines exist in every mode of the processor: NAME is the mode's suffix.
.macro serial_routines name
    # Sends AL. Changes EAX, EDX.
putc\name:
    mov %al, %ah
    mov $COM1_LINE_STATUS, %dx
10: in %dx, %al
    test $TRANSMITTER_EMPTY, %al
    jz 10b
    mov %ah, %al
    mov $COM1, %dx
    out %al, %dx
    ret

    # Sends the text at (R/E)SI up to its NUL. Changes EAX, EDX, and (R/E)SI to behind the NUL.
puts\name:
    lodsb
    test %al, %al
    jz 11f
    call putc\name
    jmp puts\name
11: ret

    # Sends EBX as eight digits. Changes EAX, ECX, EDX.
puthex\name:
    mov $8, %ecx
12: rol $4, %ebx
    mov %bl, %al
    and $15, %al
    add $'0', %al
    cmp $'9', %al
    jbe 13f
    add $('a' - '0' - 10), %al
13: call putc\name
    dec %ecx
    jnz 12b
    ret
.endm

.code16
serial_routines 16
.code32
serial_routines 32
.code64
serial_routines 64

# Sends a text. Changes (R/E)AX, (R/E)DX, (R/E)SI. The text lies in the code, where the call's return address points.
.macro print64 text:vararg
    call 20f
    .asciz \text
20: pop %rsi
    call puts64
.endm
.macro print32 text:vararg
    call 20f
    .asciz \text
20: pop %esi
    call puts32
.endm

# Sends a text, the value of a 32-bit register and a new line. Changes RAX, RBX, RCX, RDX, RSI.
.macro report64 text, register
    push %rbx
    mov \register, %ebx
    print64 "\text "
    call puthex64
    print64 "\n"
    pop %rbx
.endm

# Waits for a byte, and receives it to AL. Changes EDX.
getc:
    mov $COM1_LINE_STATUS, %dx
1:  in %dx, %al
    test $DATA_READY, %al
    jz 1b
    mov $COM1, %dx
    in %dx, %al
    ret

power_off:
    mov $SLEEP_CONTROL, %dx
    mov $S5, %al
    out %al, %dx
halt:
    cli
    hlt
    jmp halt

reset:
    mov $RESET, %dx
    mov $1, %al
    out %al, %dx
    jmp halt

# Maps 3 to 4 GiB onto itself in pages of 2 MiB, uncached: device registers, and addresses where there is nothing.
# Changes RAX, RCX, RDI.
map_devices:
    mov $DEVICE_DIRECTORY, %edi
    mov $(HOLE | 0x93), %eax
    mov $512, %ecx
1:  mov %rax, (%rdi)
    add $8, %rdi
    add $0x200000, %rax
    dec %ecx
    jnz 1b
    movq $(DEVICE_DIRECTORY | 3), BOOT_PDPT + 3 * 8
    ret

# Makes RAX the handler of interrupt vector EDI. Changes RDI, RDX.
set_gate:
    shl $4, %edi
    add $IDT, %edi
    mov %rax, %rdx
    mov %ax, (%rdi)
    movl $0x10, 2(%rdi)                 # __BOOT_CS
    movw $0x8e00, 4(%rdi)               # an interrupt gate, present
    shr $16, %rdx
    mov %dx, 6(%rdi)
    shr $16, %rdx
    mov %edx, 8(%rdi)
    movl $0, 12(%rdi)
    ret

.macro gate vector, handler
    mov $\vector, %edi
    lea \handler(%rip), %rax
    call set_gate
.endm

# Makes the gates count. Changes nothing.
load_idt:
    sub $16, %rsp
    movw $0xfff, (%rsp)
    movq $IDT, 2(%rsp)
    lidt (%rsp)
    add $16, %rsp
    ret

.set X2APIC_ID, 0x802
.set X2APIC_EOI, 0x80b
.set X2APIC_SPURIOUS, 0x80f
.set X2APIC_ICR, 0x830
.set X2APIC_TIMER, 0x832
.set X2APIC_TIMER_COUNT, 0x838
.set X2APIC_TIMER_DIVISOR, 0x83e

# Writes a constant below 2^32 to a model-specific register. Changes RAX, RCX, RDX.
.macro set_msr number, value
    mov $\number, %ecx
    mov $\value, %eax
    xor %edx, %edx
    wrmsr
.endm

# Switches the local APIC on, in x2APIC mode. Changes RAX, RCX, RDX.
enable_local_apic:
    mov $0x1b, %ecx                     # IA32_APIC_BASE
    rdmsr
    or $0xc00, %eax                     # enabled, x2APIC
    wrmsr
    set_msr X2APIC_SPURIOUS, 0x1ff
    ret

# Delivers pin EAX of the I/O APIC, an edge, as vector EBX to the first vCPU. Changes RAX, RDI.
route_pin:
    mov $IOAPIC, %edi
    lea 0x11(%rax, %rax), %eax
    mov %eax, (%rdi)                    # select: the entry's upper half
    movl $0, 0x10(%rdi)                 # to APIC id 0
    dec %eax
    mov %eax, (%rdi)                    # its lower half
    mov %ebx, 0x10(%rdi)                # fixed, edge, not masked
    ret
