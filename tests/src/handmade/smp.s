# Starts every other processor, one after another: each tells its APIC ids, in real mode.
.globl guest_smp
guest_smp:
    # Copy what they run to where a start-up message can point.
    lea trampoline(%rip), %rsi
    mov $TRAMPOLINE, %edi
    mov $(trampoline_end - trampoline), %ecx
    rep movsb
    movl $0, AWAKE
    call enable_local_apic
    mov $1, %eax
    cpuid
    shr $16, %ebx
    movzbl %bl, %ebp                    # how many there are
    report64 "processors", %ebp

    mov $1, %r15d
1:  cmp %ebp, %r15d
    jae 3f
    mov $X2APIC_ICR, %ecx
    mov %r15d, %edx                     # destination
    mov $0x4500, %eax                   # INIT
    wrmsr
    mov $(0x4600 | (TRAMPOLINE >> 12)), %eax
    wrmsr                               # start up
    mov %r15d, %edx
    wrmsr                               # and again, as the manual says
2:  pause
    cmp %r15d, AWAKE
    jb 2b
    inc %r15d
    jmp 1b
3:  print64 "all awake\n"
    jmp power_off

# Here a processor starts in real mode, at offset 0 of its code segment.
.code16
trampoline:
    cli
    mov %cs, %ax
    mov %ax, %ds
    xor %ax, %ax
    mov %ax, %ss
    mov $(TRAMPOLINE + 0xfe0), %sp
    cld
    mov $(awake_text - trampoline), %si
    call puts_real
    mov $1, %eax
    cpuid
    shr $24, %ebx
    call puthex_real
    mov $' ', %al
    call putc_real
    mov $0xb, %eax
    xor %ecx, %ecx
    cpuid
    mov %edx, %ebx
    call puthex_real
    mov $'\n', %al
    call putc_real
    lock incl AWAKE - TRAMPOLINE
1:  cli
    hlt
    jmp 1b
awake_text:
    .asciz "awake in real mode "
serial_routines _real
trampoline_end:
.code64
