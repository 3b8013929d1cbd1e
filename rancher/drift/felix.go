package drift

import (
	"fmt"
	"strings"
)

// weak says of a setting of Felix, where its value makes policy hold less than it
// says, why that is so; "" otherwise. The names are those of the FelixConfiguration
// in open source Calico 3.27 to 3.32.
type weak func(v any) string

func isNot(safe, why string) weak {
	return func(v any) string {
		if s, ok := v.(string); ok && strings.EqualFold(s, safe) {
			return ""
		}
		return why
	}
}

func isTrue(why string) weak {
	return func(v any) string {
		if v == true {
			return why
		}
		return ""
	}
}

func anyValue(why string) weak {
	return func(v any) string {
		if v == "" || v == nil || size(v) == 0 {
			return ""
		}
		return why
	}
}

var felixSettings = map[string]weak{
	"defaultEndpointToHostAction": isNot("Drop", "pods reach their own node beside all policy"),
	"chainInsertMode":             isNot("Insert", "rules of others come before Calico's and may accept first"),
	"workloadSourceSpoofing":      isNot("Disabled", "pods that ask for it may send from addresses that are not theirs"),
	"bpfEnforceRPF":               isNot("Strict", "packets with forged sources are not dropped in eBPF mode"),
	"interfacePrefix":             isNot("cali", "pods whose interfaces are named otherwise are not policed"),
	"interfaceExclude":            isNot("kube-ipvs0", "interfaces that match are not policed"),
	"ipv6Support": func(v any) string {
		if v == false {
			return "IPv6 is not policed"
		}
		return ""
	},
	"allowVXLANPacketsFromWorkloads": isTrue("pods may send VXLAN packets, and so as anyone"),
	"allowIPIPPacketsFromWorkloads":  isTrue("pods may send IP-in-IP packets, and so as anyone"),
	"sidecarAccelerationEnabled":     isTrue("connections between a pod and its sidecar go beside policy"),
	"failsafeInboundHostPorts":       anyValue("the listed ports of nodes are open whatever policy says"),
	"failsafeOutboundHostPorts":      anyValue("nodes reach the listed ports whatever policy says"),
	"externalNodesList":              anyValue("the listed addresses count as nodes of the cluster"),
	"disableConntrackInvalidCheck":   isTrue("packets that belong to no connection are let through"),
}

// felix tells which settings of a FelixConfiguration that nobody rolled out make
// policy hold less than it says.
func felix(o *Object) *Finding {
	spec, _ := o.Body["spec"].(map[string]any)
	f := &Finding{Category: Setting, Key: o.Key}
	var whys []string
	for _, name := range sortedNames(felixSettings) {
		v, there := spec[name]
		if !there || v == nil {
			continue
		}
		why := felixSettings[name](v)
		if why == "" {
			continue
		}
		f.Changes = append(f.Changes, Change{Path: "spec." + name, Live: clip(encode(v), maxShown)})
		whys = append(whys, fmt.Sprintf("%s: %s", name, why))
		if w := o.wrote([]string{"spec", name}); w != nil && (f.By == nil || w.At.After(f.By.At)) {
			f.By = w
		}
	}
	if len(whys) == 0 {
		return nil
	}
	f.Detail = strings.Join(whys, "; ")
	return f
}

// felixConcern leaves of a live FelixConfiguration what was wished and what makes policy hold
// less: calico-node itself writes other settings into it when it starts.
func felixConcern(wished, live map[string]any) map[string]any {
	want, _ := wished["spec"].(map[string]any)
	have, _ := live["spec"].(map[string]any)
	spec := map[string]any{}
	for name, v := range have {
		_, there := want[name]
		check := felixSettings[name]
		if there || check != nil && check(v) != "" {
			spec[name] = v
		}
	}
	out := map[string]any{}
	for name, v := range live {
		out[name] = v
	}
	out["spec"] = spec
	return out
}
