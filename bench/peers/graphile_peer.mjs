// graphile-worker: prints one JSON line of figures. Arguments: a DSN of an empty database, and the number of jobs.
// The preset of its own performance test: a local queue of 500 and batched completion.
import { createRequire } from "node:module";
const require = createRequire(process.env.PEERS_ROOT + "/");
const { Logger, makeWorkerUtils, run } = require("graphile-worker");
const { Pool } = require("pg");

const [dsn, count] = [process.argv[2], Number(process.argv[3])];
const pool = new Pool({ connectionString: dsn, max: 12 });
pool.on("error", () => {});
pool.on("connect", (client) => client.on("error", () => {}));
const logger = new Logger(() => () => {});
const preset = {
  worker: {
    concurrentJobs: 24, maxPoolSize: 12, pollInterval: 2000,
    localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0, logger,
  },
};
const seconds = (began) => Number(process.hrtime.bigint() - began) / 1e9;
const utils = await makeWorkerUtils({ pgPool: pool, preset });
await utils.migrate();

const each = Math.floor(Math.min(count / 10, 5000) / 50);
let began = process.hrtime.bigint();
await Promise.all(Array.from({ length: 50 }, async () => {
  for (let n = 0; n < each; n++) await utils.addJob("noop", { n });
}));
const single = (each * 50) / seconds(began);
await pool.query("truncate graphile_worker._private_jobs");

began = process.hrtime.bigint();
for (let start = 0; start < count; start += 1000) {
  const jobs = Array.from({ length: Math.min(1000, count - start) }, (_, n) => ({ identifier: "noop", payload: { n: start + n } }));
  await utils.addJobs(jobs);
}
const bulk = count / seconds(began);
await pool.query("vacuum analyze graphile_worker._private_jobs");

const seen = new Set();
let runs = 0;
let all;
const done = new Promise((resolve) => { all = resolve; });
began = process.hrtime.bigint();
const runner = await run({
  preset, pgPool: pool, noHandleSignals: true,
  taskList: { noop: (payload) => { runs++; seen.add(payload.n); if (runs === count) all(); } },
});
await done;
// until the last one is settled, as with everybody else
for (;;) {
  const { rows } = await pool.query("select count(*)::int as left from graphile_worker._private_jobs");
  if (rows[0].left === 0) break;
}
const drain = count / seconds(began);
await runner.stop();
if (seen.size !== count || runs !== count) throw new Error(`${count} in, ${runs} runs of ${seen.size}`);
console.log(JSON.stringify({ single, bulk, drain }));
await utils.release();
await pool.end().catch(() => {});
process.exit(0);
