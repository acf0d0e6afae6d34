// Discovery by go-control-plane, for scripts/bench: its delta server and snapshot cache, as its documentation has them,
// with resources that our control plane made. `peer RESOURCES DIR` answers commands as tests/bench/plane.py does.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// world is the file: resources by type and namespace, and what `change` puts in the place of one of them, in turn.
type world struct {
	Namespaces map[string]map[string][][]byte
	Changes    [][]byte
}

// byNamespace gives all proxies of a namespace one snapshot: node.id is POD.NAMESPACE.
type byNamespace struct{}

func (byNamespace) ID(node *core.Node) string {
	return node.GetId()[strings.LastIndex(node.GetId(), ".")+1:]
}

type peer struct {
	cache   cache.SnapshotCache
	by      map[string]map[string][]types.Resource
	changes []types.Resource
	version int
}

func main() {
	p := load(os.Args[1])
	listener := must(net.Listen("tcp", "127.0.0.1:0"))
	tls := must(credentials.NewServerTLSFromFile(os.Args[2]+"/tls.crt", os.Args[2]+"/tls.key"))
	grpcServer := grpc.NewServer(grpc.Creds(tls))
	discovery.RegisterAggregatedDiscoveryServiceServer(grpcServer, server.NewServer(context.Background(), p.cache, nil))
	go func() { check(grpcServer.Serve(listener)) }()
	answer(map[string]any{"port": listener.Addr().(*net.TCPAddr).Port})
	for commands := bufio.NewScanner(os.Stdin); commands.Scan(); {
		switch commands.Text() {
		case "change":
			answer(map[string]any{"at": p.change()})
		case "stats":
			answer(stats())
		}
	}
}

func load(path string) *peer {
	var read world
	check(json.Unmarshal(must(os.ReadFile(path)), &read))
	p := &peer{cache: cache.NewSnapshotCache(true, byNamespace{}, nil), by: map[string]map[string][]types.Resource{}}
	for namespace, kinds := range read.Namespaces {
		p.by[namespace] = map[string][]types.Resource{}
		for kind, all := range kinds {
			for _, one := range all {
				p.by[namespace][kind] = append(p.by[namespace][kind], message(one))
			}
		}
	}
	for _, one := range read.Changes {
		p.changes = append(p.changes, message(one))
	}
	p.publish()
	return p
}

// change replaces the endpoints of the Service that every proxy uses; when that began, by the monotonic clock.
func (p *peer) change() float64 {
	fresh := p.changes[(p.version-1)%len(p.changes)]
	for _, kinds := range p.by {
		for _, all := range kinds {
			for index, one := range all {
				if cache.GetResourceName(one) == cache.GetResourceName(fresh) && kindOf(one) == kindOf(fresh) {
					all[index] = fresh
				}
			}
		}
	}
	start := monotonic()
	p.publish()
	return start
}

func (p *peer) publish() {
	p.version++
	for namespace, kinds := range p.by {
		snapshot := must(cache.NewSnapshot(fmt.Sprint(p.version), kinds))
		check(p.cache.SetSnapshot(context.Background(), namespace, snapshot))
	}
}

func message(data []byte) types.Resource {
	var wrapped anypb.Any
	check(proto.Unmarshal(data, &wrapped))
	return must(wrapped.UnmarshalNew())
}

func kindOf(one types.Resource) string {
	return string(one.ProtoReflect().Descriptor().FullName())
}

func stats() map[string]any {
	var used syscall.Rusage
	check(syscall.Getrusage(syscall.RUSAGE_SELF, &used))
	var pages, resident int
	must(fmt.Sscan(string(must(os.ReadFile("/proc/self/statm"))), &pages, &resident))
	cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano())
	return map[string]any{
		"cpu":  cpu.Seconds(),
		"rss":  float64(resident*os.Getpagesize()) / (1 << 20),
		"peak": float64(used.Maxrss) / 1024,
	}
}

// monotonic is the clock that Python's time.monotonic() reads on Linux, in seconds.
func monotonic() float64 {
	var now unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &now))
	return time.Duration(now.Nano()).Seconds()
}

func answer(what map[string]any) {
	fmt.Println(string(must(json.Marshal(what))))
}

func must[T any](value T, err error) T {
	check(err)
	return value
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}
