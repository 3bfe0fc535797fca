# A guest in one boot sector. It writes without end, one request after the other, through the BIOS of the virtual
# machine, which drives virtio-blk:
#   for stamp = 1, 2, ...: for area = 0 ... 7: 8 KiB full of (stamp * 8 + area)
#       to sector 2048 + area * 8192 + (stamp mod 64) * 128
# What the disk holds at any moment follows from the newest write alone (running_guest_test.cpp).
        .section .rodata
        .globl  stamping_guest
        .code16
        .set    origin, 0x7c00
stamping_guest:
        xorw    %ax, %ax
        movw    %ax, %ds
        movw    %ax, %ss
        movw    $origin, %sp
        movw    $0x1000, %ax            # the buffer: physical 64 KiB
        movw    %ax, %es
        cld
        pushw   %dx                     # the disk's number
        movl    $1, %ebp                # the stamp
next_stamp:
        xorl    %ebx, %ebx              # the area
next_area:
        movl    %ebp, %eax
        shll    $3, %eax
        addl    %ebx, %eax
        xorw    %di, %di
        movw    $2048, %cx
        rep stosl

        movl    %ebx, %eax
        shll    $13, %eax
        movl    %ebp, %ecx
        andl    $63, %ecx
        shll    $7, %ecx
        leal    2048(%eax, %ecx), %eax
        movl    %eax, sector - stamping_guest + origin
        movw    $packet - stamping_guest + origin, %si
        movb    $0x43, %ah              # extended write
        xorb    %al, %al
        popw    %dx
        pushw   %dx
        pushl   %ebx
        pushl   %ebp
        pushw   %es
        int     $0x13
        popw    %es
        popl    %ebp
        popl    %ebx
        jc      failed

        incl    %ebx
        cmpl    $8, %ebx
        jb      next_area
        incl    %ebp
        jmp     next_stamp
failed:
        hlt
        jmp     failed

packet: .byte   16, 0
        .word   16                      # sectors
        .word   0, 0x1000               # the buffer
sector: .long   0, 0

        .org    510
        .byte   0x55, 0xaa
        .code64
        .section .note.GNU-stack, "", @progbits
