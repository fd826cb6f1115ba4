# Guests that use the processor and its ports.

# Ports: each width, string instructions, ports where there is nothing.
.globl guest_ports
guest_ports:
    # The serial port's scratch register keeps a byte.
    mov $COM1_SCRATCH, %dx
    mov $0x5a, %al
    out %al, %dx
    xor %eax, %eax
    in %dx, %al
    report64 "scratch", %eax

    # Nobody is there: all ones, in the bytes that were asked for. Writes go nowhere.
    mov $0x2000, %dx
    xor %eax, %eax
    out %al, %dx
    out %ax, %dx
    out %eax, %dx
    in %dx, %al
    report64 "absent byte", %eax
    mov $0x2000, %dx
    xor %eax, %eax
    in %dx, %ax
    report64 "absent word", %eax
    mov $0x2000, %dx
    xor %eax, %eax
    in %dx, %eax
    report64 "absent long", %eax

    # A register of one byte, read as four that reach beyond its device.
    mov $COM1_SCRATCH, %dx
    in %dx, %eax
    report64 "straddling long", %eax

    mov $0x2000, %dx
    lea string(%rip), %rdi
    mov $4, %ecx
    rep insb
    mov string(%rip), %eax
    report64 "absent string", %eax

    # The power register takes bytes: a word that begins like one switches nothing off.
    mov $SLEEP_CONTROL, %dx
    mov $S5, %ax
    out %ax, %dx
    xor %eax, %eax
    in %dx, %al
    report64 "sleep control", %eax
    mov $I8042_COMMAND, %dx
    xor %eax, %eax
    in %dx, %al
    report64 "keyboard status", %eax

    mov $COM1, %dx
    lea words(%rip), %rsi
    mov $WORDS, %ecx
    rep outsb
    jmp power_off
string:
    .long 0
words:
    .ascii "many bytes by one instruction\n"
.set WORDS, . - words

# Device registers in memory: the I/O APIC's, and addresses where there is nothing.
.globl guest_registers
guest_registers:
    call map_devices
    mov $IOAPIC, %ebp
    movl $1, (%rbp)
    report64 "ioapic version", "0x10(%rbp)"
    # A redirection entry keeps what is written, but for what only the device changes.
    movl $0x10, (%rbp)
    movl $0x15031, 0x10(%rbp)
    report64 "ioapic entry", "0x10(%rbp)"

    mov $ABSENT, %ebp
    movl $0, (%rbp)
    xor %eax, %eax
    mov (%rbp), %al
    report64 "absent byte", %eax
    xor %eax, %eax
    mov (%rbp), %ax
    report64 "absent word", %eax
    report64 "absent long", "(%rbp)"
    mov (%rbp), %rax
    shr $32, %rax
    report64 "absent quad, upper half", %eax
    jmp power_off

# CPUID of the first vCPU.
.globl guest_cpuid
guest_cpuid:
    mov $1, %eax
    cpuid
    mov %ecx, %r8d
    mov %ebx, %r9d
    shr $31, %ecx
    report64 "hypervisor", %ecx
    shr $5, %r8d
    and $1, %r8d
    report64 "vmx", %r8d
    shr $16, %r9d
    movzbl %r9b, %r10d
    report64 "threads", %r10d
    shr $8, %r9d
    report64 "apic id", %r9d
    mov $0x80000001, %eax
    cpuid
    shr $2, %ecx
    and $1, %ecx
    report64 "svm", %ecx

    print64 "signature "
    mov $0x40000000, %eax
    cpuid
    mov %ebx, hypervisor(%rip)
    mov %ecx, hypervisor + 4(%rip)
    mov %edx, hypervisor + 8(%rip)
    lea hypervisor(%rip), %rsi
    call puts64
    print64 "\n"

    mov $0xb, %eax
    mov $1, %ecx
    cpuid
    mov %edx, %r9d
    movzwl %bx, %ebx
    report64 "threads in the package", %ebx
    report64 "x2apic id", %r9d
    jmp power_off
hypervisor:
    .asciz "............"

# Says that user space is reached, to the monitor and on the console.
.globl guest_marker
guest_marker:
    mov $MARKER, %dx
    mov $0x40, %al
    out %al, %dx                        # passes time, as Linux does
    mov $0x41, %al
    out %al, %dx
    print64 "marked\n"
    jmp power_off

# Sleeps until its timer has interrupted it five times.
.globl guest_timer
guest_timer:
    call load_idt
    gate 0x40, on_tick
    call enable_local_apic
    set_msr X2APIC_TIMER_DIVISOR, 0xb   # by one
    set_msr X2APIC_TIMER, 0x20040       # periodic, vector 0x40
    set_msr X2APIC_TIMER_COUNT, 1000000
    xor %r15d, %r15d
1:  sti
    hlt
    cli
    cmp $5, %r15d
    jb 1b
    print64 "five ticks\n"
    jmp power_off
on_tick:
    push %rax
    push %rcx
    push %rdx
    inc %r15d
    set_msr X2APIC_EOI, 0
    pop %rdx
    pop %rcx
    pop %rax
    iretq
