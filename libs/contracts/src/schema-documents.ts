import type { TSchema } from 'typebox';
import { headerNames } from './headers.ts';
import { type TopicEvents, topicEvents } from './topic-events.ts';
import { isSourceTopic, type SourceTopicName, type TopicDefinition, topicList } from './topics.ts';

type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };
type JsonObject = { readonly [key: string]: Json };

const dialect = 'https://json-schema.org/draft/2020-12/schema';

/** The generated files by their path from the root of the repository. */
export function documents(): Map<string, string> {
  const files = new Map<string, string>();
  for (const topic of topicList) {
    if (isSourceTopic(topic.name)) {
      files.set(`schemas/${topic.name}.schema.json`, text(topicSchema(topic.name)));
    }
  }
  files.set('schemas/asyncapi.json', text(asyncApi()));
  files.set('docs/reference/topics.md', topicsPage());
  return files;
}

function text(document: JsonObject): string {
  return `${JSON.stringify(document, null, 2)}\n`;
}

/** A TypeBox schema as plain JSON: without its symbols and hidden fields. */
function plain(schema: TSchema): JsonObject {
  return JSON.parse(JSON.stringify(schema));
}

function eventsOf(topic: SourceTopicName): TopicEvents {
  return topicEvents[topic];
}

function topicSchema(topic: SourceTopicName): JsonObject {
  const { schema, events } = eventsOf(topic);
  const names = Object.keys(events);
  return {
    $schema: dialect,
    $id: `urn:signalbox:schema:${schema}`,
    title: schema,
    description: `Values of ${topic}. The header event_type says which of the definitions holds. Unknown fields pass.`,
    'x-event-types': names,
    anyOf: names.map((name) => ({ $ref: `#/$defs/${name}` })),
    $defs: Object.fromEntries(Object.entries(events).map(([name, event]) => [name, plain(event)])),
  };
}

const componentKey = (name: string) => name.replaceAll(/[^A-Za-z0-9_-]/g, '_');

function asyncApi(): JsonObject {
  const services = [
    ...new Set(topicList.flatMap(({ producers, consumers }) => [...producers, ...consumers])),
  ].sort();
  return {
    asyncapi: '3.0.0',
    info: {
      title: 'Signalbox topics',
      version: '1.0.0',
      description:
        'Every topic, what it carries, who sends and who receives. Delivery is at least once, in order by key; a receiver tells repeats by event_id.',
    },
    defaultContentType: 'application/json',
    servers: {
      kafka: {
        host: '{bootstrap}',
        protocol: 'kafka',
        variables: { bootstrap: { default: '127.0.0.1:9092' } },
      },
    },
    channels: Object.fromEntries(topicList.map((topic) => [componentKey(topic.name), channel(topic)])),
    operations: Object.fromEntries(
      services.flatMap((service) => [...operations(service, 'send'), ...operations(service, 'receive')]),
    ),
    components: { messages: messages(), messageTraits: { record: { headers: recordHeaders() } } },
  };
}

function channel(topic: TopicDefinition): JsonObject {
  const cleanup: JsonObject = topic.compacted
    ? { 'cleanup.policy': ['compact'] }
    : { 'cleanup.policy': ['delete'], 'retention.ms': topic.retentionMs ?? -1 };
  return {
    address: topic.name,
    description: topic.summary,
    servers: [{ $ref: '#/servers/kafka' }],
    messages: Object.fromEntries(
      messageNames(topic).map((name) => [name, { $ref: `#/components/messages/${name}` }]),
    ),
    bindings: {
      kafka: {
        bindingVersion: '0.5.0',
        topic: topic.name,
        partitions: topic.partitions,
        topicConfiguration: { ...cleanup, 'max.message.bytes': topic.maxMessageBytes },
      },
    },
    'x-owner': topic.owner,
    'x-ordered': topic.ordered,
    'x-content': topic.content,
  };
}

function messageNames({ name }: TopicDefinition): string[] {
  return isSourceTopic(name)
    ? Object.keys(eventsOf(name).events).map((event) => componentKey(`${name}.${event}`))
    : ['dead_letter'];
}

function operations(service: string, action: 'send' | 'receive'): [string, JsonObject][] {
  return topicList
    .filter((topic) => (action === 'send' ? topic.producers : topic.consumers).includes(service))
    .map((topic) => [
      componentKey(`${service}.${action}.${topic.name}`),
      {
        action,
        channel: { $ref: `#/channels/${componentKey(topic.name)}` },
        summary: `${service} ${action}s`,
      },
    ]);
}

function messages(): JsonObject {
  const entries: [string, JsonObject][] = topicList.flatMap((topic) => {
    if (!isSourceTopic(topic.name)) {
      return [];
    }
    const { schema, events } = eventsOf(topic.name);
    return Object.keys(events).map((event): [string, JsonObject] => [
      componentKey(`${topic.name}.${event}`),
      {
        name: event,
        traits: [{ $ref: '#/components/messageTraits/record' }],
        payload: {
          schemaFormat: `application/schema+json;version=2020-12`,
          schema: { $ref: `./${topic.name}.schema.json#/$defs/${event}` },
        },
        bindings: { kafka: { bindingVersion: '0.5.0', key: { type: 'string', description: topic.key } } },
        'x-schema': schema,
      },
    ]);
  });
  entries.push([
    'dead_letter',
    { name: 'dead_letter', summary: 'A record that no consumer could handle, and why.' },
  ]);
  return Object.fromEntries(entries);
}

function recordHeaders(): JsonObject {
  return {
    type: 'object',
    description: 'UTF-8 text each. Deltas carry traceparent, event_type and schema alone.',
    required: ['event_type', 'schema'],
    properties: Object.fromEntries(Object.values(headerNames).map((name) => [name, { type: 'string' }])),
  };
}

function retention({ compacted, retentionMs }: TopicDefinition): string {
  const hours = (retentionMs ?? 0) / 3_600_000;
  return compacted ? 'compacted' : hours % 24 === 0 ? `${hours / 24} d` : `${hours} h`;
}

function topicsPage(): string {
  const rows = topicList.map((topic) =>
    [
      `\`${topic.name}\``,
      topic.partitions,
      retention(topic),
      `\`${topic.key}\``,
      topic.ordered ? 'by key' : '–',
      topic.content ? 'yes' : 'no',
      `${topic.maxMessageBytes / 1_048_576} MiB`,
      `${topic.producers.join(', ')} → ${topic.consumers.join(', ') || 'operators'}`,
      topic.owner,
    ].join(' | '),
  );
  const events = topicList.flatMap(({ name, summary }) => {
    if (!isSourceTopic(name)) {
      return [];
    }
    const types = Object.keys(eventsOf(name).events).map((type) => `\`${type}\``);
    return [
      `### ${name}`,
      '',
      summary,
      '',
      `Schema \`${eventsOf(name).schema}\`, [file](../../schemas/${name}.schema.json). Event types: ${types.join(', ')}.`,
      '',
    ];
  });
  return [
    '# Topics',
    '',
    'Generated from `libs/contracts` by `npm run schemas`; a test holds it. Partitions and retention are those of development;',
    'a partition count is never changed in place. Poison of a topic goes to its `.dlq`.',
    '',
    'topic | partitions | retention | key | ordered | content | record up to | from → to | owner',
    '--- | --- | --- | --- | --- | --- | --- | --- | ---',
    ...rows,
    '',
    '## What they carry',
    '',
    ...events,
    '## Headers',
    '',
    `UTF-8 text: ${Object.values(headerNames)
      .map((name) => `\`${name}\``)
      .join(', ')}. Deltas carry \`traceparent\`, \`event_type\` and \`schema\` alone.`,
    '',
  ].join('\n');
}
