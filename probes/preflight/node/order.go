package node

import "encoding/binary"

// nativeOrder is how this machine's kernel prints addresses.
var nativeOrder = binary.NativeEndian
