package cni

import (
	"context"
	"errors"
)

func (o *operation) clean(context.Context) error { return errors.New("this release does not know it") }
