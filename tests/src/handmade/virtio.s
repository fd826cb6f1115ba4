# What drivers of virtio devices over MMIO have in common.

.set VIRTIO_FEATURES, 0x20
.set VIRTIO_FEATURES_SELECT, 0x24
.set VIRTIO_QUEUE_SELECT, 0x30
.set VIRTIO_QUEUE_SIZE, 0x38
.set VIRTIO_QUEUE_READY, 0x44
.set VIRTIO_NOTIFY, 0x50
.set VIRTIO_STATUS, 0x70
.set VIRTIO_DESCRIPTORS, 0x80
.set VIRTIO_AVAILABLE, 0x90
.set VIRTIO_USED, 0xa0

# A queue: its descriptors, and behind them its rings.
.set ENTRIES, 32
.set AVAILABLE_RING, 0x1000
.set USED_RING, 0x2000
.set QUEUE_BYTES, 0x3000

# Flags of descriptors.
.set NEXT, 1
.set WRITE, 2

# Resets the device at RBP, and takes its features EAX, which are no transport's, and that of version 1. Behind queues comes DRIVER_OK, 0xf.
negotiate:
    movl $0, VIRTIO_STATUS(%rbp)
    movl $1, VIRTIO_STATUS(%rbp)        # ACKNOWLEDGE
    movl $3, VIRTIO_STATUS(%rbp)        # DRIVER
    movl $0, VIRTIO_FEATURES_SELECT(%rbp)
    mov %eax, VIRTIO_FEATURES(%rbp)
    movl $1, VIRTIO_FEATURES_SELECT(%rbp)
    movl $1, VIRTIO_FEATURES(%rbp)      # VIRTIO_F_VERSION_1
    movl $0xb, VIRTIO_STATUS(%rbp)      # FEATURES_OK
    ret

# Gives the device at RBP the queue EAX, which is empty and lies from EDX on. Changes RAX, RCX, RDI.
set_up_queue:
    mov %eax, VIRTIO_QUEUE_SELECT(%rbp)
    mov %edx, %edi
    xor %eax, %eax
    mov $(QUEUE_BYTES / 4), %ecx
    rep stosl
    movl $ENTRIES, VIRTIO_QUEUE_SIZE(%rbp)
    mov %edx, VIRTIO_DESCRIPTORS(%rbp)
    lea AVAILABLE_RING(%rdx), %eax
    mov %eax, VIRTIO_AVAILABLE(%rbp)
    lea USED_RING(%rdx), %eax
    mov %eax, VIRTIO_USED(%rbp)
    movl $1, VIRTIO_QUEUE_READY(%rbp)
    ret
