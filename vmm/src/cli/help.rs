//! The texts of `--help` that are not doc comments.

pub(super) const AFTER_HELP: &str = "\
Exit status:
  0      the guest powered off, or the user quit with Ctrl-a x
  1      the guest reported a failure (SBI SRST, reason 1)
  2      invalid usage or input
  3      this host cannot run it (no KVM, no permission, no QEMU)
  4      a failure of hartvisor itself
  5      the guest's kernel reported a panic (pvpanic; KVM only, as QEMU's virt has none)
  128+n  ended by signal n

Environment:
  HARTVISOR_LOG    off, error, warn (default), info, debug or trace, to stderr
  HARTVISOR_QEMU   the QEMU program, instead of qemu-system-riscv64
  HARTVISOR_PASST  the passt program, for --net passt
  HARTVISOR_VIRTIOFSD  the virtiofsd program, for --share

Files:
  /dev/kvm    KVM; it must be readable and writable for --accel kvm
  u-boot.bin  boots disks without --kernel: beside hartvisor, in ../share/hartvisor from there,
              or in /usr/lib/u-boot/qemu-riscv64_smode (Debian's package u-boot-qemu)";

pub(super) const RUN_EXAMPLES: &str = "\
Examples:
  hartvisor run --kernel guest --disk disk.img
  hartvisor run --kernel Image --initrd initrd.cpio --cmdline 'console=hvc0' \\
      --cpus 2 --memory 1G --disk root.ext4,serial=root --disk tools.img,readonly
  hartvisor run --kernel Image --memory 2G,hugepages=auto --irqchip aia --cpu zbb=off
  hartvisor run --kernel vmlinuz.gz --initrd initrd.img --cmdline 'console=hvc0'
  hartvisor run --disk debian-cloud.img --memory 1G --cpus 2
  hartvisor run --firmware u-boot.bin --disk debian-cloud.img --memory 1G
  hartvisor run --disk debian-cloud.img --cloud-init user-data=user.yaml,ssh-key=id_ed25519.pub
  hartvisor run --config vm.toml --memory 2G --pidfile /run/vm.pid
  hartvisor run --kernel guest --dump-dtb /dev/stdout | dtc -I dtb
  hartvisor run --kernel Image --cmdline console=ttyS0 --console null --serial pty
  hartvisor run --kernel Image --console socket:/run/guest.sock --serial file:boot.log
  hartvisor run --kernel Image --port name=org.example.agent,target=socket:/run/agent.sock
  hartvisor run --disk debian-cloud.img --memory 1G --net passt,forward=2222:22
  hartvisor run --kernel Image --cmdline console=ttyS0 --net tap=vm0 --vsock path=v.sock --balloon
  hartvisor run --disk debian-cloud.img --memory 1G --share /srv/data,readonly
  hartvisor run --kernel guest --vhost-user socket=/run/disk.sock,type=blk
  hartvisor run --kernel guest --disk disk.img --stats - --trace trace.json --rings rings.json
  hartvisor run --kernel guest --accel qemu
  hartvisor run --kernel guest --print-command

If a distribution's kernel stays silent, try --cmdline 'console=ttyS0 earlycon=sbi': it needs no module,
while console=hvc0 needs virtio_mmio.

At a terminal, Ctrl-a x quits, Ctrl-a q asks the guest to power off, and Ctrl-a h lists all keys.";

pub(super) const DISK_HELP: &str = "\
A disk image or block device. Up to 26 times, or 5 under QEMU, plus one each with --no-rng and --no-power-key. Double a comma in FILE. Further keys:";

pub(super) const RESIZE_HELP: &str = "\
SIGUSR2 re-reads the sizes of all raw disks and notifies the guest of changes (KVM only)";
