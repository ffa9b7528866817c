# shellcheck shell=bash
# A disk like Debian's cloud images: GPT, an EFI system partition with GRUB, an ext4 root with
# cloud-init, the console on ttyS0. Its packages are unpacked, not installed: their scripts need
# programs of the guest, and cannot run here.

# In addition to debian_packages.
cloud_packages=(cloud-init netbase linux-image-riscv64 grub-efi-riscv64-unsigned)

# Modules that the initramfs loads to mount the root, and drivers that no virtual machine needs.
cloud_modules=(virtio_mmio virtio_blk crc32c_generic ext4)
cloud_without=(drivers/{gpu,media,infiniband,staging,iio,net,usb,hid,mmc,mtd,nvme,scsi,ata} sound net)

# Units and generators of systemd that neither cloud-init nor a login needs. Each takes seconds on a
# machine emulated twice.
cloud_masked=(
    dev-{hugepages,mqueue}.mount sys-fs-fuse-connections.mount sys-kernel-{config,debug,tracing}.mount
    proc-sys-fs-binfmt_misc.automount modprobe@drm.service kmod-static-nodes.service {getty@tty1,serial-getty@hvc0}.service
    systemd-{binfmt,modules-load,sysctl,udev-load-credentials,random-seed,journal-flush,update-done}.service
    systemd-tmpfiles-{setup-dev,setup-dev-early}.service systemd-tmpfiles-clean.timer
)
cloud_generators=(
    systemd-{debug,gpt-auto,hibernate-resume,rc-local,run,ssh,system-update,sysv,tpm2}-generator
)

# fetch_cloud DIRECTORY BUSYBOX: disk, the image. root has no password.
fetch_cloud() {
    local packages="${debian_packages[*]} ${cloud_packages[*]}" contents
    contents="$debian_suite $packages $(sha256sum <"${BASH_SOURCE[0]}")"
    has_disk "$1" "$contents" && return
    apt_install "partitions and an EFI system partition for the disk of a guest" fdisk dosfstools mtools
    apt_install "the dependencies of the guest's kernel modules" kmod
    fetch_disk "$1" "$contents" "a Debian $debian_suite cloud image" "$packages" cloud_disk "$2"
}

# cloud_disk BUSYBOX WORK DISK
cloud_disk() {
    local busybox=$1 work=$2 disk=$3 root=$2/root release
    PATH=$PATH:/usr/sbin:/sbin
    unpack_debian "$work/apt/archives" "$root"
    release=$(cd "$root/usr/lib/modules" && echo *)
    (cd "$root/usr/lib/modules/$release/kernel" && rm -rf "${cloud_without[@]}")
    depmod --basedir "$root" "$release"
    configure_debian "$root"
    configure_cloud "$root"
    cloud_initramfs "$root" "$work" "$busybox" "$release"
    cloud_boot "$root" "$work/esp" "$release"
    # The partition numbers of Debian's own images.
    truncate --size=1600M "$disk"
    sfdisk --quiet "$disk" <<'END'
label: gpt
15 : start=1MiB, size=63MiB, type=uefi, name=esp
1 : start=64MiB, size=1535MiB, type=linux, name=root
END
    truncate --size=1535M "$work/ext4"
    mkfs.ext4 -q -L root -d "$root" "$work/ext4"
    dd if="$work/ext4" of="$disk" bs=1M seek=64 conv=notrunc,sparse status=none
    dd if="$work/esp" of="$disk" bs=1M seek=1 conv=notrunc,sparse status=none
}

# cloud_boot ROOT ESP RELEASE: GRUB, where firmware looks for it on removable media, and its menu.
cloud_boot() {
    local root=$1 esp=$2 release=$3
    truncate --size=63M "$esp"
    mkfs.vfat -F 32 -n UEFI "$esp" >/dev/null
    mmd -i "$esp" ::/EFI ::/EFI/BOOT ::/EFI/debian
    mcopy -i "$esp" "$root/usr/lib/grub/riscv64-efi/monolithic/grubriscv64.efi" ::/EFI/BOOT/BOOTRISCV64.EFI
    printf '%s\n' 'search --no-floppy --label root --set root' "set prefix=(\$root)/boot/grub" \
        "configfile \$prefix/grub.cfg" | mcopy -i "$esp" - ::/EFI/debian/grub.cfg
    # mtools leaves a wrong count of free clusters. The status is 1 if something was corrected.
    fsck.vfat -a "$esp" >/dev/null || [[ $? -eq 1 ]]
    mkdir -p "$root/boot/grub" "$root/boot/efi"
    cat >"$root/boot/grub/grub.cfg" <<END
set timeout=0
menuentry 'Debian' {
    linux /boot/vmlinux-$release root=LABEL=root ro console=ttyS0 quiet
    initrd /boot/initrd.img-$release
}
END
}

# cloud_initramfs ROOT WORK BUSYBOX RELEASE: as Debian's, it loads drivers and mounts the file system
# that root= names.
cloud_initramfs() {
    local root=$1 tree=$2/initramfs busybox=$3 release=$4
    mkdir -p "$tree"/{bin,dev,proc,sys,mnt,"lib/modules/$release"}
    cp "$busybox" "$tree/bin/busybox"
    unpack_modules "$root/usr/lib/modules" "$tree/lib/modules/$release" "${cloud_modules[@]}"
    printf 'modprobe %s\n' "${cloud_modules[@]}" >"$tree/load"
    cat >"$tree/init" <<'END'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc none /proc; mount -t sysfs none /sys; mount -t devtmpfs none /dev
. /load
root=$(sed 's/.*root=\([^ ]*\).*/\1/' /proc/cmdline)
until device=$(findfs "$root") 2>/dev/null; do sleep 0.1; done
mount -t ext4 -o ro "$device" /mnt
umount /sys /proc
exec switch_root /mnt /sbin/init
END
    chmod 755 "$tree/init"
    (cd "$tree" && find . -mindepth 1 | cpio --create --format=newc --owner=0:0 --quiet | gzip -1) >"$root/boot/initrd.img-$release"
}

# configure_cloud ROOT: does the work of the packages' scripts that configure_debian does not do.
configure_cloud() {
    local root=$1 unit target
    printf '%s\n' 'LABEL=root / ext4 rw,discard,errors=remount-ro 0 1' 'LABEL=UEFI /boot/efi vfat defaults 0 0' >"$root/etc/fstab"
    printf 'localhost\n' >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n' >"$root/etc/hosts"
    # update-alternatives
    ln -sf mawk "$root/usr/bin/awk"
    ln -sf nc.openbsd "$root/usr/bin/nc"
    printf 'datasource_list: [ NoCloud, None ]\n' >"$root/etc/cloud/cloud.cfg.d/90_dpkg.cfg"
    # update-ca-certificates: cloud-init fails without the file.
    cat "$root"/usr/share/ca-certificates/mozilla/*.crt >"$root/etc/ssl/certs/ca-certificates.crt"
    # Caches of the packages' scripts, which systemd would make at the first boot, in minutes.
    for unit in systemd-hwdb-update ldconfig systemd-journal-catalog-update; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit.service"
    done
    for unit in "${cloud_masked[@]}"; do
        ln -sf /dev/null "$root/etc/systemd/system/$unit"
    done
    # A session would start a second systemd, the user's.
    sed -i /pam_systemd/d "$root/etc/pam.d/common-session"
    # A machine emulated twice may exceed systemd's time limits. The 90 s of a generator cannot be
    # changed; cloud-init's decides whether cloud-init starts, so without it the units are enabled.
    mkdir -p "$root"/etc/systemd/{system.conf.d,system/service.d,system/multi-user.target.wants,system-generators}
    printf '%s\n' '[Manager]' Default{TimeoutStartSec,TimeoutStopSec,DeviceTimeoutSec}=infinity \
        >"$root/etc/systemd/system.conf.d/patient.conf"
    printf '%s\n' '[Service]' TimeoutSec=infinity WatchdogSec=0 >"$root/etc/systemd/system/service.d/patient.conf"
    for unit in cloud-init-generator "${cloud_generators[@]}"; do
        ln -sf /dev/null "$root/etc/systemd/system-generators/$unit"
    done
    ln -sf /usr/lib/systemd/system/cloud-init.target "$root/etc/systemd/system/multi-user.target.wants"
    for unit in "$root"/usr/lib/systemd/system/cloud-*.service; do
        for target in $(sed -n 's/^WantedBy=//p' "$unit"); do
            mkdir -p "$root/etc/systemd/system/$target.wants"
            ln -sf "/usr/lib/systemd/system/${unit##*/}" "$root/etc/systemd/system/$target.wants"
        done
    done
}
