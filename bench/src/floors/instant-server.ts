/**
 * The accept route answering at once: what fastify and this machine's sockets cost with nothing behind them. With
 * KAFKA_BOOTSTRAP_SERVERS given, each request awaits a plain kafkajs send first: what an accept costs that is
 * durable by Kafka alone and batches nothing.
 */
import { fastify } from 'fastify';
import { Kafka, logLevel } from 'kafkajs';

const bootstrap = process.env.KAFKA_BOOTSTRAP_SERVERS;
const topic = process.env.FLOOR_TOPIC ?? 'floor.inbound';
const server = fastify();
const producer =
  bootstrap === undefined
    ? undefined
    : new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING }).producer({
        allowAutoTopicCreation: false,
      });
await producer?.connect();

const schema = {
  body: {
    type: 'object',
    required: ['message'],
    properties: { message: { type: 'string' }, session_id: { type: 'string' } },
  },
};
let count = 0;
server.post('/v1/session/message', { schema }, async (request, reply) => {
  const id = `floor-${count++}`;
  await producer?.send({ topic, messages: [{ key: id, value: JSON.stringify(request.body) }] });
  reply.code(202);
  return { session_id: id, event_id: id, turn_id: id };
});
await server.listen({ port: 0, host: '127.0.0.1' });
const address = server.server.address();
console.log(
  JSON.stringify({ event: 'service.started', port: typeof address === 'object' ? address?.port : 0 }),
);
