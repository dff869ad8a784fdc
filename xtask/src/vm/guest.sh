echo "guest: kernel $(uname -r)"
for module in veth bridge sch_ingress cls_bpf vxlan tun wireguard virtio_net sctp; do
    modprobe "$module" || exit
done
mountpoint -q /sys/fs/bpf || mount -t bpf bpf /sys/fs/bpf || exit
mkdir -p /run/netns
ip link set lo up || exit
