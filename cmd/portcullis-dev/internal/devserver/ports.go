package devserver

import (
	"errors"
	"fmt"
	"net"
)

// portsFree fails, naming it, when one of the ports is taken.
func portsFree(ports ...int) error {
	for _, port := range ports {
		listener, err := net.Listen("tcp", hostPort(port))
		if err != nil {
			return fmt.Errorf("the embedded Temporal cannot listen on %s: %w", hostPort(port), err)
		}
		if err := listener.Close(); err != nil {
			return err
		}
	}
	return nil
}

// freePorts picks ports for Temporal's inner services, which talk over loopback.
// All are held until all are picked, so that no two are the same.
func freePorts(n int) (ports []int, err error) {
	for range n {
		listener, err := net.Listen("tcp", hostPort(0))
		if err != nil {
			return nil, fmt.Errorf("no free port on %s: %w", loopback, err)
		}
		defer func() { err = errors.Join(err, listener.Close()) }()
		address, ok := listener.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("no free port on %s", loopback)
		}
		ports = append(ports, address.Port)
	}
	return ports, nil
}
