package e2e

import (
	"context"
	"math"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/encoding/protowire"
)

// pool is a node group in replies of the provider.
type pool struct {
	id        string
	min, max  int
	target    int
	instances map[string]int // state by id: 1 running, 2 creating, 3 deleting
}

// raw is a codec that passes messages as bytes.
type raw struct{}

func (raw) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (raw) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

func (raw) Name() string { return "raw" }

// dial connects to a replica, not through the proxy.
func dial(t testing.TB, address string) *grpc.ClientConn {
	t.Helper()
	connection, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	return connection
}

// ask sends one RPC.
func ask(connection *grpc.ClientConn, rpc string, request []byte) (fields, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	var reply []byte
	err := connection.Invoke(ctx, "/clusterautoscaler.cloudprovider.v1.externalgrpc.CloudProvider/"+rpc, &request, &reply,
		grpc.ForceCodec(raw{}))
	return parse(reply), err
}

// pools calls the provider directly.
func pools(t testing.TB, address string) (map[string]pool, error) {
	t.Helper()
	connection := dial(t, address)
	defer connection.Close()
	call := func(rpc string, request []byte) (fields, error) { return ask(connection, rpc, request) }
	listed, err := call("NodeGroups", nil)
	if err != nil {
		return nil, err
	}
	found := map[string]pool{}
	for _, group := range listed.messages(1) {
		p := pool{id: group.text(1), min: group.number(2), max: group.number(3), instances: map[string]int{}}
		byID := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), p.id)
		size, err := call("NodeGroupTargetSize", byID)
		if err != nil {
			return nil, err
		}
		nodes, err := call("NodeGroupNodes", byID)
		if err != nil {
			return nil, err
		}
		p.target = size.number(1)
		for _, instance := range nodes.messages(1) {
			state := 0
			for _, status := range instance.messages(2) {
				state = status.number(1)
			}
			p.instances[instance.text(1)] = state
		}
		found[p.id] = p
	}
	return found, nil
}

// fields are the fields of a protobuf message by number.
type fields map[protowire.Number][]any

func parse(message []byte) fields {
	parsed := fields{}
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return parsed
		}
		message = message[n:]
		switch kind {
		case protowire.VarintType:
			value, n := protowire.ConsumeVarint(message)
			parsed[number] = append(parsed[number], value)
			message = message[max(n, 0):]
		case protowire.BytesType:
			value, n := protowire.ConsumeBytes(message)
			parsed[number] = append(parsed[number], value)
			message = message[max(n, 0):]
		case protowire.Fixed64Type:
			value, n := protowire.ConsumeFixed64(message)
			parsed[number] = append(parsed[number], math.Float64frombits(value))
			message = message[max(n, 0):]
		default:
			message = message[max(protowire.ConsumeFieldValue(number, kind, message), 0):]
		}
	}
	return parsed
}

func (f fields) messages(number protowire.Number) []fields {
	var all []fields
	for _, value := range f[number] {
		if content, ok := value.([]byte); ok {
			all = append(all, parse(content))
		}
	}
	return all
}

func (f fields) text(number protowire.Number) string {
	for _, value := range f[number] {
		if content, ok := value.([]byte); ok {
			return string(content)
		}
	}
	return ""
}

func (f fields) number(number protowire.Number) int {
	for _, value := range f[number] {
		if content, ok := value.(uint64); ok {
			return int(int64(content))
		}
	}
	return 0
}

func (f fields) float(number protowire.Number) float64 {
	for _, value := range f[number] {
		if content, ok := value.(float64); ok {
			return content
		}
	}
	return 0
}
