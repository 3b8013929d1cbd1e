package probes

import (
	"encoding/json"
	"fmt"
)

// MarshalJSON writes "all" or the list.
func (n Namespaces) MarshalJSON() ([]byte, error) {
	if n.All {
		return []byte(`"all"`), nil
	}
	return json.Marshal(n.Names)
}

// UnmarshalJSON reads "all" or a list of names.
func (n *Namespaces) UnmarshalJSON(b []byte) error {
	var s string
	if json.Unmarshal(b, &s) == nil {
		if s != "all" {
			return fmt.Errorf(`namespaces: %q is neither "all" nor a list of names`, s)
		}
		*n = Namespaces{All: true}
		return nil
	}
	*n = Namespaces{}
	if err := json.Unmarshal(b, &n.Names); err != nil {
		return fmt.Errorf(`namespaces: want "all" or a list of names`)
	}
	return nil
}

// IsZero lets omitzero leave the field out.
func (n Namespaces) IsZero() bool { return !n.All && len(n.Names) == 0 }
