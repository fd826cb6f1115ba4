# A guest with a driver for its first disk, over MMIO.

.set DISK, 0xd0000000
.set DISK_PIN, 2                         # of the I/O APIC

# Also below 1 MiB. A chain has three descriptors, and eight chains share their buffers.
.set DESCRIPTORS, 0x50000
.set AVAILABLE, 0x51000
.set USED, 0x52000
.set REQUEST, 0x53000
.set OUTCOME, 0x53100
.set DATA, 0x54000
.set CHAINS, 8

# Does what it is told, one byte at a time: r reads a sector, w writes it, m reads it eight times at once, f flushes, d discards, z zeroes,
# b breaks the rules of virtqueues and starts over, x faults, p powers off. It says how each request ended.
.globl guest_disk
guest_disk:
    call map_devices
    call enable_local_apic
    # Interrupts are sent, and not taken.
    mov $DISK_PIN, %eax
    mov $0x34, %ebx
    call route_pin
    mov $DISK, %ebp
    call start_disk
    print64 "ready\n"
next_request:
    call getc
    movb $0xff, OUTCOME
    mov $1, %r12d                       # requests at once
    mov $512, %ecx                      # bytes of data
    mov $(NEXT | WRITE), %r8d           # for the disk to write
    xor %ebx, %ebx                      # VIRTIO_BLK_T_IN
    cmp $'r', %al
    je ask
    cmp $'m', %al
    je ask_often
    mov $NEXT, %r8d                     # for the disk to read
    mov $1, %ebx                        # _OUT
    cmp $'w', %al
    je ask
    mov $4, %ebx                        # _FLUSH
    xor %ecx, %ecx
    cmp $'f', %al
    je ask
    # A range of sectors is the data: from 8 on, 8, no flags.
    movq $8, DATA
    movq $8, DATA + 8
    mov $16, %ecx
    mov $11, %ebx                       # _DISCARD
    cmp $'d', %al
    je ask
    mov $13, %ebx                       # _WRITE_ZEROES
    cmp $'z', %al
    je ask
    cmp $'b', %al
    je break_rules
    cmp $'x', %al
    je triple_fault
    cmp $'p', %al
    je power_off
    jmp next_request

ask_often:
    mov $CHAINS, %r12d
ask:
    mov %ebx, REQUEST                   # of sector 0
    call offer
    dec %r12d
    jnz ask
    movl $0, VIRTIO_NOTIFY(%rbp)
1:  pause
    mov AVAILABLE + 2, %ax
    cmp USED + 2, %ax
    jne 1b
    movzbl OUTCOME, %eax
    report64 "outcome", %eax
    jmp next_request

# More requests than there are entries.
break_rules:
    addw $(ENTRIES + 1), AVAILABLE + 2
    movl $0, VIRTIO_NOTIFY(%rbp)
1:  testl $64, VIRTIO_STATUS(%rbp)        # DEVICE_NEEDS_RESET
    jz 1b
    call start_disk
    print64 "started over\n"
    jmp next_request

# Offers the request with ECX bytes of data, whose descriptor has the flags R8D. Changes RAX, RDX, RSI, RDI.
offer:
    movzwl AVAILABLE + 2, %esi
    mov %esi, %eax
    and $(CHAINS - 1), %eax
    lea (%rax, %rax, 2), %eax           # its first descriptor
    and $(ENTRIES - 1), %esi
    mov %ax, AVAILABLE + 4(, %rsi, 2)
    mov %eax, %edi
    shl $4, %edi
    add $DESCRIPTORS, %edi
    inc %eax
    movq $REQUEST, (%rdi)
    movl $16, 8(%rdi)
    movw $NEXT, 12(%rdi)
    mov %ax, 14(%rdi)
    inc %eax
    movq $DATA, 16(%rdi)
    mov %ecx, 24(%rdi)
    mov %r8w, 28(%rdi)
    mov %ax, 30(%rdi)
    movq $OUTCOME, 32(%rdi)
    movl $1, 40(%rdi)
    movl $WRITE, 44(%rdi)
    incw AVAILABLE + 2
    ret

# Resets the disk at RBP, and brings it up with one empty queue. Changes RAX, RCX, RDX, RDI.
start_disk:
    xor %eax, %eax
    call negotiate
    xor %eax, %eax
    mov $DESCRIPTORS, %edx
    call set_up_queue
    movl $0xf, VIRTIO_STATUS(%rbp)      # DRIVER_OK
    ret
