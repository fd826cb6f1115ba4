# Guests that tell how they were booted.

# By the 64-bit Linux boot protocol: RSI points to the zero page.
.globl guest_hello
guest_hello:
    mov %rsi, %rbp
    print64 "hello\n"
    print64 "magic "
    mov 0x202(%rbp), %eax               # hdr.header
    mov %eax, magic(%rip)
    lea magic(%rip), %rsi
    call puts64
    print64 "\n"

    # The sum of the RAM in the memory map.
    movzbl 0x1e8(%rbp), %ecx            # e820_entries
    lea 0x2d0(%rbp), %rdi               # e820_table
    xor %r8, %r8
1:  cmpl $1, 16(%rdi)
    jne 2f
    add 8(%rdi), %r8
2:  add $20, %rdi
    dec %ecx
    jnz 1b
    mov %r8, %r9
    shr $32, %r9
    report64 "ram high", %r9d
    report64 "ram low", %r8d

    # The ACPI root: eight characters, and twenty bytes that sum to zero.
    mov 0x70(%rbp), %rdi                # acpi_rsdp_addr
    mov (%rdi), %rax
    mov %rax, signature(%rip)
    print64 "rsdp "
    lea signature(%rip), %rsi
    call puts64
    print64 "\n"
    mov 0x70(%rbp), %rdi
    xor %ebx, %ebx
    mov $20, %ecx
1:  add (%rdi), %bl
    inc %rdi
    dec %ecx
    jnz 1b
    report64 "rsdp sum", %ebx

    print64 "command line "
    mov 0x228(%rbp), %esi               # cmd_line_ptr
    call puts64
    print64 "\n"
    report64 "initrd size", "0x21c(%rbp)"
    jmp power_off
magic:
    .asciz "...."
signature:
    .asciz "........"

# By PVH: 32-bit, no paging, no stack, EBX points to the start info.
.code32
.globl guest_pvh
guest_pvh:
    mov $0x8ff0, %esp
    mov %ebx, %ebp
    print32 "hello from protected mode\nmagic "
    mov (%ebp), %ebx
    call puthex32
    print32 "\nversion "
    mov 4(%ebp), %ebx
    call puthex32
    print32 "\ncommand line "
    mov 24(%ebp), %esi
    call puts32
    print32 "\nrsdp "
    mov 32(%ebp), %esi
    movl (%esi), %ebx
    call puthex32

    # The sum of the RAM in the memory map, which stays below 4 GiB.
    mov 40(%ebp), %edi                  # memmap_paddr
    mov 48(%ebp), %ecx                  # memmap_entries
    xor %ebx, %ebx
1:  cmpl $1, 16(%edi)
    jne 2f
    add 8(%edi), %ebx
2:  add $24, %edi
    dec %ecx
    jnz 1b
    print32 "\nram "
    call puthex32
    print32 "\n"
    mov $SLEEP_CONTROL, %dx
    mov $S5, %al
    out %al, %dx
3:  hlt
    jmp 3b
.code64
