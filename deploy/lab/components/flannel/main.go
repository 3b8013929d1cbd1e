// Command flanneld is flannel's daemon with the VXLAN backend and the
// Kubernetes subnet manager alone, as K3s embeds it: flannel's own main program
// also imports a cloud provider's SDK, which the lab neither needs nor can have.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/flannel-io/flannel/pkg/backend"
	_ "github.com/flannel-io/flannel/pkg/backend/vxlan"
	"github.com/flannel-io/flannel/pkg/ip"
	"github.com/flannel-io/flannel/pkg/ipmatch"
	"github.com/flannel-io/flannel/pkg/subnet"
	"github.com/flannel-io/flannel/pkg/subnet/kube"
	"github.com/flannel-io/flannel/pkg/trafficmngr/iptables"
	log "k8s.io/klog/v2"
)

// annotationPrefix is what flannel puts before the names of its node annotations.
const annotationPrefix = "flannel.alpha.coreos.com"

// options are those of flanneld's flags and variables that Canal's manifest uses.
type options struct {
	kubeconfig, netConf, subnetFile, iface string
	masquerade, blackhole                  bool
	// resync of the iptables rules, in seconds.
	resync int
}

func parse(args []string, env func(string) string) (options, error) {
	var o options
	f := flag.NewFlagSet("flanneld", flag.ContinueOnError)
	f.StringVar(&o.kubeconfig, "kubeconfig-file", "", "kubeconfig; none is needed in a pod")
	f.StringVar(&o.netConf, "net-config-path", "/etc/kube-flannel/net-conf.json", "the network's configuration")
	f.StringVar(&o.subnetFile, "subnet-file", "/run/flannel/subnet.env", "file that tells others of the subnet")
	f.StringVar(&o.iface, "iface", env("FLANNELD_IFACE"), "interface or address to other nodes; none takes the default route's")
	f.BoolVar(&o.masquerade, "ip-masq", env("FLANNELD_IP_MASQ") == "true", "masquerade what leaves the pods' network")
	f.BoolVar(&o.blackhole, "ip-blackhole-route", false, "add a blackhole route for the node's subnet")
	f.IntVar(&o.resync, "iptables-resync", 5, "seconds between checks of the iptables rules")
	f.Bool("kube-subnet-mgr", true, "take the subnet from the node object, which is the only way here")
	return o, f.Parse(args)
}

func main() {
	o, err := parse(os.Args[1:], os.Getenv)
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		log.Errorf("flanneld: %v", err)
		log.Flush()
		os.Exit(1)
	}
}

// run does what flannel's main does, in its order.
func run(ctx context.Context, o options) error {
	sm, err := kube.NewSubnetManager(ctx, "", o.kubeconfig, annotationPrefix, o.netConf, true)
	if err != nil {
		return fmt.Errorf("subnet manager: %w", err)
	}
	config, err := sm.GetNetworkConfig(ctx)
	if err != nil {
		return fmt.Errorf("network configuration: %w", err)
	}
	iface, err := externalInterface(ctx, sm, config, o.iface)
	if err != nil {
		return fmt.Errorf("interface to other nodes: %w", err)
	}
	be, err := backend.NewManager(ctx, sm, iface).GetBackend(config.BackendType)
	if err != nil {
		return fmt.Errorf("backend: %w", err)
	}
	var wg sync.WaitGroup
	network, err := be.RegisterNetwork(ctx, &wg, config)
	if err != nil {
		return fmt.Errorf("register network: %w", err)
	}
	if err := firewall(ctx, o, config, network); err != nil {
		return fmt.Errorf("iptables: %w", err)
	}
	if o.blackhole {
		go keepBlackhole(ctx, o, network)
	}
	lease := network.Lease()
	if err := sm.HandleSubnetFile(o.subnetFile, config, o.masquerade, lease.Subnet, lease.IPv6Subnet, network.MTU()); err != nil {
		log.Warningf("subnet file: %v", err) // flannel goes on without it
	}
	wg.Go(func() { network.Run(ctx) })
	if err := sm.CompleteLease(ctx, lease, &wg); err != nil && ctx.Err() == nil {
		return fmt.Errorf("lease: %w", err)
	}
	wg.Wait()
	return nil
}

func externalInterface(ctx context.Context, sm subnet.Manager, config *subnet.Config, iface string) (*backend.ExternalInterface, error) {
	stack, err := ipmatch.GetIPFamily(config.EnableIPv4, config.EnableIPv6)
	if err != nil {
		return nil, err
	}
	public, public6 := sm.GetStoredPublicIP(ctx)
	if iface == "" {
		iface = public
	}
	return ipmatch.LookupExtIface(iface, "", "", stack, ipmatch.PublicIPOpts{PublicIP: public, PublicIPv6: public6})
}

// firewall masquerades what leaves the network and accepts what is forwarded in it.
func firewall(ctx context.Context, o options, config *subnet.Config, network backend.Network) error {
	rules := &iptables.IPTablesManager{}
	if err := rules.Init(ctx); err != nil {
		return err
	}
	if o.masquerade {
		// No earlier subnet is known: the file that would tell it is the container's own.
		var none ip.IP4Net
		var none6 ip.IP6Net
		if err := rules.SetupAndEnsureMasqRules(ctx, config.Network, none, none, config.IPv6Network, none6, none6, network.Lease(), o.resync, false); err != nil {
			return err
		}
	}
	rules.SetupAndEnsureForwardRules(ctx, config.Network, config.IPv6Network, o.resync)
	return nil
}

func keepBlackhole(ctx context.Context, o options, network backend.Network) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Duration(o.resync) * time.Second):
			if err := ip.AddBlackholeV4Route(network.Lease().Subnet.ToIPNet()); err != nil {
				log.Errorf("blackhole route: %v", err)
			}
		}
	}
}
