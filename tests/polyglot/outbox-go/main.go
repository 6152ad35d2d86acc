// A shop that is none of Holdfast's: it writes an order and stages what is to be told of it in one transaction of its own.
//
//	outbox-go commit|rollback NUMBER…
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// errChanged stands for whatever makes a shop change its mind after it has staged.
var errChanged = errors.New("the customer changed their mind")

func main() {
	if len(os.Args) < 3 || (os.Args[1] != "commit" && os.Args[1] != "rollback") {
		fmt.Fprintln(os.Stderr, "usage: outbox-go commit|rollback NUMBER…")
		os.Exit(2)
	}
	ctx := context.Background()
	connection, err := pgx.Connect(ctx, os.Getenv("SHOP_DATABASE_URL"))
	if err != nil {
		fail(err)
	}
	defer connection.Close(ctx)
	for _, number := range os.Args[2:] {
		err := order(ctx, connection, number, os.Args[1] == "commit")
		if err != nil && !errors.Is(err, errChanged) {
			fail(err)
		}
	}
}

// order writes an order and stages its letter; both are there afterwards, or neither.
func order(ctx context.Context, connection *pgx.Conn, number string, keep bool) error {
	return pgx.BeginFunc(ctx, connection, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "INSERT INTO shop_order (number) VALUES ($1)", number); err != nil {
			return err
		}
		var effect string
		err := tx.QueryRow(ctx, `SELECT holdfast_outbox.stage(
			destination => 'letters', payload => jsonb_build_object('order', $1::text),
			idempotency_key => 'order/' || $1, ordering_key => 'shop')::text`, number).Scan(&effect)
		if err != nil {
			return err
		}
		fmt.Println(number, effect)
		if !keep {
			return errChanged
		}
		return nil
	})
}

// fail ends the program with PostgreSQL's SQLSTATE where there is one.
func fail(err error) {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		fmt.Fprintln(os.Stderr, refused.Code, refused.Message)
	} else {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(1)
}
