# A guest with a driver for its balloon, its first device, over MMIO.

.set BALLOON, 0xd0000000
.set BALLOON_PIN, 2                      # of the I/O APIC

# Below 1 MiB.
.set INFLATE, 0x60000
.set STATISTICS, INFLATE + QUEUE_BYTES
.set PAGE_NUMBER, STATISTICS + QUEUE_BYTES
.set STATISTIC, PAGE_NUMBER + 0x100
.set FREE_PAGE, 0x70000

# Does what it is told, one byte at a time: g gives a page, s tells a statistic, a waits to be asked for the next, b breaks the rules of
# virtqueues and starts over, p powers off.
.globl guest_balloon
guest_balloon:
    call map_devices
    call enable_local_apic
    # Interrupts are sent, and not taken.
    mov $BALLOON_PIN, %eax
    mov $0x34, %ebx
    call route_pin
    mov $BALLOON, %ebp
    call start_balloon
    print64 "ready\n"
next_order:
    call getc
    cmp $'g', %al
    je give_page
    cmp $'s', %al
    je tell_statistic
    cmp $'a', %al
    je await_question
    cmp $'b', %al
    je break_balloon
    cmp $'p', %al
    je power_off
    jmp next_order

give_page:
    movl $(FREE_PAGE >> 12), PAGE_NUMBER
    mov $INFLATE, %edx
    mov $PAGE_NUMBER, %esi
    mov $4, %ecx
    call offer_one
    movl $0, VIRTIO_NOTIFY(%rbp)
    call await_used
    print64 "given\n"
    jmp next_order

tell_statistic:
    movw $4, STATISTIC                  # free memory
    movq $0x1000, STATISTIC + 2
    mov $STATISTICS, %edx
    mov $STATISTIC, %esi
    mov $10, %ecx
    call offer_one
    movl $2, VIRTIO_NOTIFY(%rbp)
    print64 "told\n"
    jmp next_order

await_question:
    mov $STATISTICS, %edx
    call await_used
    print64 "asked\n"
    jmp next_order

# More requests than there are entries.
break_balloon:
    addw $(ENTRIES + 1), INFLATE + AVAILABLE_RING + 2
    movl $0, VIRTIO_NOTIFY(%rbp)
1:  testl $64, VIRTIO_STATUS(%rbp)      # DEVICE_NEEDS_RESET
    jz 1b
    call start_balloon
    print64 "started over\n"
    jmp next_order

# Offers ECX bytes from RSI on to the queue at RDX, for the device to read. Changes RAX.
offer_one:
    mov %rsi, (%rdx)
    mov %ecx, 8(%rdx)
    movl $0, 12(%rdx)
    movzwl AVAILABLE_RING + 2(%rdx), %eax
    and $(ENTRIES - 1), %eax
    movw $0, AVAILABLE_RING + 4(%rdx, %rax, 2)
    incw AVAILABLE_RING + 2(%rdx)
    ret

# Waits until all that was offered to the queue at RDX is back. Changes RAX.
await_used:
    pause
    mov AVAILABLE_RING + 2(%rdx), %ax
    cmp USED_RING + 2(%rdx), %ax
    jne await_used
    ret

# Resets the balloon at RBP, and brings it up with two empty queues. Changes RAX, RCX, RDX, RDI.
start_balloon:
    mov $2, %eax                        # VIRTIO_BALLOON_F_STATS_VQ
    call negotiate
    xor %eax, %eax
    mov $INFLATE, %edx
    call set_up_queue
    mov $2, %eax
    mov $STATISTICS, %edx
    call set_up_queue
    movl $0xf, VIRTIO_STATUS(%rbp)      # DRIVER_OK
    ret
