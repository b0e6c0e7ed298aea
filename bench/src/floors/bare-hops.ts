/**
 * The same path without durability, tenancy or tracing. HOPS=0: the front streams the model's answer itself. HOPS=2
 * or 4: one or two trips over Kafka to a worker in another process before the front writes its first event, with the
 * client's fetches and commits tuned as the product tunes them. ROLE=front serves POST and SSE; ROLE=worker echoes.
 */
import { fastify } from 'fastify';
import { Kafka, logLevel } from 'kafkajs';

const role = process.env.ROLE ?? 'front';
const trips = Number(process.env.HOPS ?? '2') / 2;
const bootstrap = process.env.KAFKA_BOOTSTRAP_SERVERS ?? '127.0.0.1:9092';
const modelUrl = process.env.MODEL_BASE_URL ?? '';
const topics = { out: process.env.FLOOR_OUT ?? 'floor.out', back: process.env.FLOOR_BACK ?? 'floor.back' };

const kafka = new Kafka({ brokers: [bootstrap], logLevel: logLevel.NOTHING });
const producer = kafka.producer({ allowAutoTopicCreation: false });

async function consume(topic: string, each: (key: string, value: string) => void): Promise<void> {
  const consumer = kafka.consumer({
    groupId: `floor-${role}-${topic}`,
    maxWaitTimeInMs: 500,
    allowAutoTopicCreation: false,
  });
  await consumer.connect();
  await consumer.subscribe({ topics: [topic], fromBeginning: true });
  const { promise: joined, resolve } = Promise.withResolvers<void>();
  consumer.on(consumer.events.GROUP_JOIN, () => resolve());
  await consumer.run({
    autoCommit: false,
    eachBatchAutoResolve: false,
    eachBatch: async ({ batch, resolveOffset }) => {
      for (const message of batch.messages) {
        each(message.key?.toString() ?? '', message.value?.toString() ?? '');
        resolveOffset(message.offset);
      }
    },
  });
  await joined;
}

async function runWorker(): Promise<void> {
  await producer.connect();
  await consume(topics.out, (key, value) => {
    void producer.send({ topic: topics.back, messages: [{ key, value }] });
  });
  console.log(JSON.stringify({ event: 'service.started', port: 0 }));
}

async function runFront(): Promise<void> {
  const server = fastify();
  const streams = new Map<string, { write(text: string): unknown }>();
  const tripsLeft = new Map<string, number>();
  let count = 0;
  const emit = (session: string, type: string, text: string) =>
    streams.get(session)?.write(`event: ${type}\ndata: ${JSON.stringify({ text })}\n\n`);

  if (trips > 0) {
    await producer.connect();
    await consume(topics.back, (key) => {
      const left = (tripsLeft.get(key) ?? 1) - 1;
      tripsLeft.set(key, left);
      if (left > 0) {
        void producer.send({ topic: topics.out, messages: [{ key, value: '{}' }] });
        return;
      }
      emit(key, 'assistant.delta', 'a floor has no words of its own');
      emit(key, 'assistant.final', '');
    });
  }

  async function answerFromModel(session: string, message: string): Promise<void> {
    const response = await fetch(`${modelUrl}/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ model: 'floor', stream: true, messages: [{ role: 'user', content: message }] }),
    });
    for await (const chunk of response.body ?? [])
      emit(session, 'assistant.delta', Buffer.from(chunk).toString());
    emit(session, 'assistant.final', '');
  }

  server.post('/v1/session/message', async (request, reply) => {
    const body = request.body as { session_id?: string; message: string };
    const session = body.session_id ?? `floor-${count++}`;
    if (trips > 0) {
      tripsLeft.set(session, trips);
      void producer.send({ topic: topics.out, messages: [{ key: session, value: JSON.stringify(body) }] });
    } else if (streams.has(session)) {
      void answerFromModel(session, body.message);
    }
    reply.code(202);
    return { session_id: session, event_id: session, turn_id: session };
  });
  server.get('/v1/session/:id/events', (request, reply) => {
    const { id } = request.params as { id: string };
    reply.hijack();
    reply.raw.writeHead(200, { 'content-type': 'text/event-stream' }).flushHeaders();
    streams.set(id, reply.raw);
    reply.raw.on('close', () => streams.delete(id));
  });
  await server.listen({ port: 0, host: '127.0.0.1' });
  const address = server.server.address();
  console.log(
    JSON.stringify({ event: 'service.started', port: typeof address === 'object' ? address?.port : 0 }),
  );
}

await (role === 'worker' ? runWorker() : runFront());
