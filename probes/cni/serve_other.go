//go:build !linux

package cni

import "context"

func serve(context.Context, Host, *Request) Reply {
	return Reply{Error: "the node's side of a migration runs on Linux only"}
}
