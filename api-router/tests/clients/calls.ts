// Calls that a client makes whose types were generated from the OpenAPI document: a write, a read, the health.

import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { argv: string[] };

function need(holds: boolean, what: unknown): void {
  if (!holds) throw new Error(JSON.stringify(what));
}

const router = createClient<paths>({
  baseUrl: process.argv[2] ?? "",
  querySerializer: { object: { style: "form", explode: true } },
});
const header = { "x-shard-key": "user_ts" };

const written = await router.POST("/api/write", {
  params: { header },
  body: {
    table: "users",
    data: { user_id: "user_ts", name: "Ada", email: "ada@example.com" },
  },
});
need(written.response.status === 201, written.error);

for (const [name, count] of [["Ada", 1], ["Eve", 0]] as const) {
  const read = await router.GET("/api/read", {
    params: {
      header: { ...header, "x-consistency": "quorum" },
      query: { table: "users", filters: { name: `eq.${name}` } },
    },
  });
  const rows = read.data?.data ?? [];
  need(read.response.status === 200 && rows.length === count, read.error ?? rows);
  for (const row of rows) need(row["user_id"] === "user_ts", row);
}

const health = await router.GET("/api/health");
need(health.data?.success === true, health.error ?? health.data);
