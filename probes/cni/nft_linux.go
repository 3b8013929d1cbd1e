package cni

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"golang.org/x/sys/unix"
)

// nftTries bounds how often a change is tried anew because a rule was replaced
// meanwhile, as kube-proxy and Felix do all the time.
const nftTries = 5

// nftResidue finds flannel's rules and chains in the tables of iptables-nft, and
// flannel's own tables. Calico's table arp calico-arp is none of it: Felix makes
// it whichever way its rules are written, to keep ARP replies of a virtual machine
// that moved from its old node, and Calico's Felix takes over what Canal's made.
func nftResidue() ([]residue, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables cannot be looked at: %w", err)
	}
	tables, err := conn.ListTables()
	switch {
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOENT):
		// A kernel without nftables has none of its tables.
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("nftables cannot be listed (the migrator needs NET_ADMIN): %w", err)
	}
	var out []residue
	for _, t := range tables {
		switch {
		case slices.Contains(flannelTables, t.Name):
			out = append(out, residue{what: fmt.Sprintf("nftables table %s", t.Name), remove: func(context.Context) error { return deleteTable(t) }})
		case ipTable(t):
			found, err := inTable(conn, t)
			if err != nil {
				return nil, err
			}
			out = append(out, found...)
		}
	}
	return out, nil
}

// ipTable tells whether flannel writes to a table through iptables-nft.
func ipTable(t *nftables.Table) bool {
	return (t.Family == nftables.TableFamilyIPv4 || t.Family == nftables.TableFamilyIPv6) && (t.Name == "nat" || t.Name == "filter")
}

func tableName(t *nftables.Table) string {
	if t.Family == nftables.TableFamilyIPv6 {
		return "ip6 " + t.Name
	}
	return "ip " + t.Name
}

// flannelIn is what of flannel is in one table.
type flannelIn struct {
	chains []*nftables.Chain
	rules  []*nftables.Rule
}

// find looks at the chains that packets enter a table by, and at flannel's own.
func find(conn *nftables.Conn, t *nftables.Table) (f flannelIn, err error) {
	chains, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return f, fmt.Errorf("the chains of nftables cannot be listed: %w", err)
	}
	for _, c := range chains {
		if c.Table == nil || c.Table.Name != t.Name {
			continue
		}
		if strings.HasPrefix(c.Name, flannelChain) {
			f.chains = append(f.chains, c)
		}
		if c.Hooknum == nil {
			continue
		}
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return f, fmt.Errorf("the rules of chain %s of nftables table %s cannot be read: %w", c.Name, tableName(t), err)
		}
		for _, r := range rules {
			if flannels(r) {
				f.rules = append(f.rules, r)
			}
		}
	}
	return f, nil
}

// flannels tells whether a rule is flannel's: by where it jumps to, or by its
// comment, which flannel's of before the chains have too.
func flannels(r *nftables.Rule) bool {
	if comment(r.UserData) {
		return true
	}
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Verdict:
			if strings.HasPrefix(e.Chain, flannelChain) {
				return true
			}
		case *expr.Match:
			if info, ok := e.Info.(*xt.Comment); ok && comment([]byte(*info)) {
				return true
			}
		}
	}
	return false
}

func inTable(conn *nftables.Conn, t *nftables.Table) ([]residue, error) {
	f, err := find(conn, t)
	if err != nil || len(f.chains)+len(f.rules) == 0 {
		return nil, err
	}
	var names []string
	for _, c := range f.chains {
		names = append(names, c.Name)
	}
	remove := func(ctx context.Context) error { return cleanTable(ctx, t) }
	return []residue{{what: rulesAndChains(len(f.rules), names, tableName(t), "iptables-nft"), remove: remove}}, nil
}

// cleanTable takes flannel out of a table in one transaction: rules that jump to
// its chains first.
func cleanTable(ctx context.Context, t *nftables.Table) (err error) {
	for range nftTries {
		if err = cleanTableOnce(t); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func cleanTableOnce(t *nftables.Table) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	f, err := find(conn, t)
	if err != nil || len(f.chains)+len(f.rules) == 0 {
		return err
	}
	for _, r := range f.rules {
		if err := conn.DelRule(r); err != nil {
			return err
		}
	}
	for _, c := range f.chains {
		conn.FlushChain(c)
	}
	for _, c := range f.chains {
		conn.DelChain(c)
	}
	return conn.Flush()
}

func deleteTable(t *nftables.Table) error {
	conn, err := nftables.New()
	if err != nil {
		return err
	}
	conn.DelTable(t)
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}
