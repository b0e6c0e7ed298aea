import { createServer } from 'node:http';

// A service as spawnService sees one: logs JSON, tells its port, answers /ready and /metrics, streams, stops on SIGTERM.
const log = (event: string, fields: object = {}) =>
  process.stdout.write(`${JSON.stringify({ event, level: 'INFO', message: event, ...fields })}\n`);

if (process.argv.includes('--refuse')) {
  process.stderr.write('no configuration\n');
  process.exit(64);
}
let requests = 0;
const server = createServer((request, response) => {
  requests += 1;
  if (request.url === '/events') {
    const after = Number(request.headers['last-event-id'] ?? 0);
    response.writeHead(200, { 'content-type': 'text/event-stream' });
    response.write('retry: 250\n: hello\n\n');
    for (const id of [1, 2, 3].filter((one) => one > after)) {
      response.write(`id: ${id}\nevent: number\ndata: {"id":${id}}\n\n`);
    }
    if (after > 0) {
      response.end();
    }
    return;
  }
  if (request.url === '/metrics') {
    response.end(`# HELP requests_total x\nrequests_total{service="sample",route="/a"} ${requests}\n`);
    return;
  }
  response.writeHead(request.url === '/ready' && requests < 3 ? 503 : 200).end('{}');
});
process.on('SIGTERM', () => {
  log('service.stopped');
  server.close(() => process.exit(0));
  server.closeAllConnections();
});
server.listen(Number(process.env.PORT), '127.0.0.1', () => {
  const address = server.address();
  log('service.started', { port: typeof address === 'object' ? address?.port : 0, extra: process.env.EXTRA });
  process.stdout.write('not JSON\n');
});
