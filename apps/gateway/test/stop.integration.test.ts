import { call } from '@signalbox/testkit/api-call';
import { type FaultProxy, startFaultProxy } from '@signalbox/testkit/fault-proxy';
import { waitFor } from '@signalbox/testkit/wait';
import { openWebSocket } from '@signalbox/testkit/websocket';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { follow, type GatewayFixture, gatewayFixture, post } from './gateway-fixture.ts';

let fixture: GatewayFixture;
let database: FaultProxy;

beforeAll(async () => {
  fixture = await gatewayFixture();
  database = await startFaultProxy({ url: fixture.database.url });
});
afterAll(async () => {
  await fixture?.close();
  await database?.close();
});

it('answers the posts that were under way, and what it accepted has left for Kafka when it is gone', async () => {
  const service = await fixture.start({ DATABASE_URL: database.url, DRAIN_DELAY_MS: '500' });
  const { acme } = fixture.keys;
  expect((await post(service, acme, { message: 'first' })).status).toBe(202);

  database.blackhole();
  const underWay = Array.from({ length: 20 }, (_, index) =>
    post(service, acme, { message: `post ${index}` }),
  );
  service.kill('SIGTERM');
  await service.log('service.stopping');
  // They were let in: the delay has passed and a new request is refused.
  await waitFor(
    () => call(service, '/nothing'),
    ({ status }) => status === 503,
  );
  await database.heal();
  const answers = await Promise.all(underWay);
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 202));
  for (const { headers } of answers) expect(headers.get('connection')).toBe('close');
  expect(await service.exited).toEqual({ code: 0, signal: null });

  const accepted = answers.map(({ body }) => body.event_id);
  const rows = await fixture.database.query<{ event_id: string }>(
    'select event_id from gateway.messages where event_id = any($1::uuid[])',
    [accepted],
  );
  expect(rows).toHaveLength(20);
  expect(await fixture.database.query('select 1 from messaging.outbox')).toEqual([]);
});

it('ends streams with a time to come back that differs from stream to stream, and sockets with 1001', async () => {
  const service = await fixture.start({ STREAM_RETRY_MS: '1234' });
  const { acme } = fixture.keys;
  const { body } = await post(service, acme, { message: 'hello' });
  const streams = await Promise.all(Array.from({ length: 20 }, () => follow(service, acme, body.session_id)));
  const socket = await openWebSocket(`${service.url}/v1/session/${body.session_id}/ws`, {
    headers: { 'x-api-key': acme },
  });
  service.kill('SIGTERM');
  expect(await Promise.all(streams.map(({ ended }) => ended))).toEqual(streams.map(() => 'server'));
  expect(await socket.closed).toMatchObject({ code: 1001 });
  const hints = streams.map((stream) => stream.retryMs() ?? 0);
  expect(new Set(hints).size).toBeGreaterThan(10);
  expect(Math.min(...hints)).toBeGreaterThanOrEqual(250);
  expect(Math.max(...hints)).toBeLessThanOrEqual(5_250);
  expect(await service.exited).toEqual({ code: 0, signal: null });
});
