# Guests that read and print.

# Does what it is told, one byte at a time, by polling. Any other byte it shows as a number.
.globl guest_commands
guest_commands:
    incl UNTOUCHED
    report64 "memory", UNTOUCHED
    print64 "ready\n"
next_command:
    call getc
    cmp $'p', %al
    je power_off
    cmp $'r', %al
    je reset
    cmp $'k', %al
    je reset_by_keyboard
    cmp $'x', %al
    je triple_fault
    cmp $'u', %al
    je run_from_nowhere
    cmp $'m', %al
    je panic
    cmp $'h', %al
    je say_hello
    cmp $'i', %al
    je be_interrupted
    movzbl %al, %ebx
    print64 "<"
    call puthex64
    print64 ">\n"
    jmp next_command

say_hello:
    print64 "hello\n"
    jmp next_command

# Has the serial port say by an interrupt that it can send, which this processor does not take.
be_interrupted:
    call map_devices
    call enable_local_apic
    mov $COM1_PIN, %eax
    mov $0x34, %ebx
    call route_pin
    mov $COM1_INTERRUPT_ENABLE, %dx
    mov $2, %al                         # transmitter empty
    out %al, %dx
    print64 "interrupted\n"
    jmp next_command

reset_by_keyboard:
    mov $0xfe, %al
    out %al, $I8042_COMMAND
    jmp halt

# No interrupt can be delivered, nor the fault that this is, nor the fault that that is.
triple_fault:
    push $0
    push $0
    lidt (%rsp)
    mov $0x12345678, %eax
    ud2

# No instruction can be fetched where there is no memory.
run_from_nowhere:
    call map_devices
    mov $ABSENT, %eax
    jmp *%rax

# As Linux, which asks for a warm reset after a panic.
panic:
    print64 "last words\n"
    movw $0x1234, 0x472
    jmp reset

# Sends back what it receives, by interrupts, up to an end-of-transmission.
.globl guest_echo
guest_echo:
    call map_devices
    call load_idt
    gate 0x34, on_serial
    call enable_local_apic
    mov $COM1_PIN, %eax
    mov $0x34, %ebx
    call route_pin
    mov $COM1_FIFO_CONTROL, %dx
    mov $1, %al
    out %al, %dx
    mov $COM1_MODEM_CONTROL, %dx
    mov $0xb, %al                       # DTR, RTS, and the interrupt line
    out %al, %dx
    mov $COM1_INTERRUPT_ENABLE, %dx
    mov $1, %al                         # received data
    out %al, %dx
    print64 "echo\n"
1:  sti
    hlt
    cli
    jmp 1b
on_serial:
    mov $COM1_LINE_STATUS, %dx
    in %dx, %al
    test $DATA_READY, %al
    jz 1f
    call echo_waiting
    jmp on_serial
1:  set_msr X2APIC_EOI, 0
    iretq

# Sends back what it receives, by polling, up to an end-of-transmission.
.globl guest_polling_echo
guest_polling_echo:
    print64 "echo\n"
1:  call echo_waiting
    jmp 1b

# Sends back what has been received, but at most one block. Powers off at an end-of-transmission.
echo_waiting:
    lea block(%rip), %rdi
    xor %ebx, %ebx
1:  mov $COM1_LINE_STATUS, %dx
    in %dx, %al
    test $DATA_READY, %al
    jz 3f
    mov $COM1, %dx
    in %dx, %al
    cmp $4, %al
    je 2f
    stosb
    lea block_end(%rip), %rax
    cmp %rax, %rdi
    jb 1b
    jmp 3f
2:  inc %ebx
3:  lea block(%rip), %rsi
    mov %edi, %ecx
    sub %esi, %ecx
    jz 5f
4:  mov $COM1_LINE_STATUS, %dx
    in %dx, %al
    test $TRANSMITTER_EMPTY, %al
    jz 4b
    mov $COM1, %dx
    rep outsb
5:  test %ebx, %ebx
    jnz power_off
    ret

# An exit to the monitor per byte: on hosts that emulate, more would take minutes.
.set PRINTED, 3 << 16

# Prints 192 KiB of numbers, 128 bytes for each look at whether there is room, and powers off.
.globl guest_flood
guest_flood:
    xor %ebp, %ebp
1:  mov $COM1_LINE_STATUS, %dx
    in %dx, %al
    test $TRANSMITTER_EMPTY, %al
    jz 1b
    call print_block
    cmp $PRINTED, %ebp
    jb 1b
    jmp power_off

# Prints as much, and never looks whether there is room. Then waits for an end-of-transmission.
.globl guest_rude
guest_rude:
    mov $COM1_INTERRUPT_ENABLE, %dx
    mov $1, %al                         # received data: else nothing is sent while there is no room
    out %al, %dx
    xor %ebp, %ebp
1:  call print_block
    cmp $PRINTED, %ebp
    jb 1b
2:  call getc
    cmp $4, %al
    jne 2b
    jmp power_off

# Prints the 128 bytes from position EBP on: numbers of sixteen bits, each the number of those before it.
print_block:
    mov $64, %ecx
    lea block(%rip), %rdi
1:  mov %ebp, %eax
    shr $1, %eax
    stosw
    add $2, %ebp
    dec %ecx
    jnz 1b
    lea block(%rip), %rsi
    mov $COM1, %dx
    mov $128, %ecx
    rep outsb
    ret
block:
    .fill 128
block_end:

# Prints without end, as fast as it may.
.globl guest_chatter
guest_chatter:
    print64 "chatter\n"
    jmp guest_chatter

# Powers off when the power button is pressed; resets when it receives an r.
.globl guest_button
guest_button:
    call map_devices
    call load_idt
    gate 0x35, on_button
    call enable_local_apic
    mov $EVENTS_PIN, %eax
    mov $0x35, %ebx
    call route_pin
    print64 "ready\n"
    sti
1:  call getc
    cmp $'r', %al
    je reset
    jmp 1b
on_button:
    print64 "button\n"
    jmp power_off

# Sleeps; says that the power button was pressed, and sleeps on.
.globl guest_stubborn
guest_stubborn:
    call map_devices
    call load_idt
    gate 0x35, on_unwelcome_button
    call enable_local_apic
    mov $EVENTS_PIN, %eax
    mov $0x35, %ebx
    call route_pin
    print64 "ready\n"
1:  sti
    hlt
    cli
    jmp 1b
on_unwelcome_button:
    print64 "button\n"
    set_msr X2APIC_EOI, 0
    iretq

# Sleeps, and wakes for nothing.
.globl guest_deaf
guest_deaf:
    print64 "ready\n"
    jmp halt

# Runs without an exit, for ever.
.globl guest_busy
guest_busy:
    print64 "ready\n"
1:  jmp 1b
