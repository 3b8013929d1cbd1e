package netw

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"portcullis.dev/portcullis/deploy/lab/internal/fault"
)

// blockTable is the table of nftables that drops what passes the bridge. It is
// in the bridge's namespace, as a firewall between machines is: no node sees it,
// and it is still there when a node has booted again.
const blockTable = Prefix + "_block"

// SetBlocks drops what the given faults say, and nothing else, at once.
func SetBlocks(blocks []fault.Fault) error {
	return nft(blockRules(blocks))
}

// blockRules is what nft reads: the old table is dropped and the new one made in
// one transaction.
func blockRules(blocks []fault.Fault) string {
	var b strings.Builder
	// A table that is not there cannot be deleted, so it is made first.
	fmt.Fprintf(&b, "table bridge %s\ndelete table bridge %s\n", blockTable, blockTable)
	if len(blocks) == 0 {
		return b.String()
	}
	fmt.Fprintf(&b, "table bridge %s {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n", blockTable)
	for _, f := range blocks {
		for _, way := range ways(f) {
			fmt.Fprintf(&b, "\t\t%s %s counter drop\n", way, packets(f))
		}
	}
	b.WriteString("\t}\n}\n")
	return b.String()
}

// ways are the links that the packets come in from and go out to.
func ways(f fault.Fault) []string {
	node, peer := linkName(f.Target), f.Params["peer"]
	between := func(from, to string) string {
		var m []string
		if from != "" {
			m = append(m, fmt.Sprintf("iifname %q", from))
		}
		if to != "" {
			m = append(m, fmt.Sprintf("oifname %q", to))
		}
		return strings.Join(m, " ")
	}
	if peer != "" {
		peer = linkName(peer)
	}
	var out []string
	if d := f.Params["direction"]; d != "out" {
		out = append(out, between(peer, node))
	}
	if d := f.Params["direction"]; d != "in" {
		out = append(out, between(node, peer))
	}
	return out
}

func packets(f fault.Fault) string {
	proto, port := f.Params["proto"], f.Params["port"]
	switch {
	case port != "":
		return fmt.Sprintf("ip protocol %s %s dport %s", proto, proto, port)
	default:
		return "ip protocol " + proto
	}
}

// Blocking says that the table is there.
func Blocking() (bool, error) {
	out, err := exec.Command("nft", "list", "tables", "bridge").CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return false, nil // then nobody can have made one
	}
	if err != nil {
		return false, fmt.Errorf("nft list tables: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return strings.Contains(string(out), "table bridge "+blockTable+"\n"), nil
}

// removeBlocks takes the table away, if it is there.
func removeBlocks() error {
	there, err := Blocking()
	if err != nil || !there {
		return err
	}
	return SetBlocks(nil)
}

func nft(rules string) error {
	cmd := exec.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, strconv.Quote(strings.TrimSpace(string(out))))
	}
	return nil
}
