package main

import (
	_ "github.com/projectcalico/calico/cni-plugin/pkg/install"
	_ "github.com/projectcalico/calico/cni-plugin/pkg/plugin"
	_ "github.com/projectcalico/calico/felix/daemon"
	_ "github.com/projectcalico/calico/typha/pkg/daemon"
)

func main() {}
