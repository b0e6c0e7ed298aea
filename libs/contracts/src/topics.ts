const hourMs = 3_600_000;
const dayMs = 24 * hourMs;
const mebibyte = 1_048_576;

const sourceTopicNames = [
  'conversation.inbound',
  'conversation.outbound',
  'tool.requests',
  'tool.results',
  'tool.catalog',
  'turn.results',
  'memory.writes',
  'memory.wal',
  'memory.recall.requests',
  'memory.recall.results',
  'delegation.tasks',
  'delegation.updates',
  'ui.notifications',
  'jobs.commands',
  'jobs.results',
] as const;

/** A topic that carries the events of a schema. */
export type SourceTopicName = (typeof sourceTopicNames)[number];
/** Where the poison of a topic goes. */
export type DeadLetterTopicName = `${SourceTopicName}.dlq`;
export type TopicName = SourceTopicName | DeadLetterTopicName;

export interface TopicDefinition {
  readonly name: TopicName;
  /** Never changed in place: another count moves keys to other partitions, and start-up refuses it. */
  readonly partitions: number;
  /** How long records stay; undefined for a compacted topic, which keeps the last record of each key. */
  readonly retentionMs: number | undefined;
  readonly compacted: boolean;
  /** The service that answers for the topic and its schema. */
  readonly owner: string;
  readonly producers: readonly string[];
  readonly consumers: readonly string[];
  /** What the record key is made of. */
  readonly key: string;
  /** Order by key is promised, so there is no retry topic (delivery rule 10). */
  readonly ordered: boolean;
  /** Values hold what people wrote; they pass the content codec (delivery rule 28). */
  readonly content: boolean;
  readonly maxMessageBytes: number;
  readonly summary: string;
}

type SourceTopic = Omit<TopicDefinition, 'name' | 'maxMessageBytes'>;

const bySession = 'tenant:session';
const byTask = 'tenant:task';
const byRequest = 'tenant:request';

const sources: Record<SourceTopicName, SourceTopic> = {
  'conversation.inbound': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'gateway',
    producers: ['gateway', 'delegation-worker'],
    consumers: ['conversation-worker'],
    key: bySession,
    ordered: true,
    content: true,
    summary: 'What people say: one record a posted message.',
  },
  'conversation.outbound': {
    partitions: 6,
    retentionMs: dayMs,
    compacted: false,
    owner: 'conversation-worker',
    producers: ['conversation-worker'],
    consumers: ['gateway'],
    key: bySession,
    ordered: true,
    content: true,
    summary: "What a client sees: a turn's events, deltas among them. One writer a session at a time.",
  },
  'tool.requests': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'conversation-worker',
    producers: ['conversation-worker', 'gateway'],
    consumers: ['tool-executor'],
    key: bySession,
    ordered: true,
    content: true,
    summary: 'Tool calls to run, each under its operation key (call_id).',
  },
  'tool.results': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'tool-executor',
    producers: ['tool-executor'],
    consumers: ['conversation-worker', 'gateway'],
    key: bySession,
    ordered: true,
    content: true,
    summary: 'What became of a tool call: started, progress, outcome. Read by the service named in reply_to.',
  },
  'tool.catalog': {
    partitions: 1,
    retentionMs: undefined,
    compacted: true,
    owner: 'tool-executor',
    producers: ['tool-executor'],
    consumers: ['gateway', 'conversation-worker'],
    key: 'tenant:name',
    ordered: true,
    content: false,
    summary: 'The tools a tenant may call, the last state of each; a tombstone removes one.',
  },
  'turn.results': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'conversation-worker',
    producers: ['conversation-worker'],
    consumers: ['delegation-worker'],
    key: bySession,
    ordered: true,
    content: true,
    summary: 'How a turn ended, for the service that asked for it. Read by the service named in reply_to.',
  },
  'memory.writes': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'memory-sync',
    producers: ['gateway', 'conversation-worker'],
    consumers: ['memory-sync'],
    key: 'tenant:session, or tenant:memory_id without one',
    ordered: true,
    content: true,
    summary: 'Memories to store or to forget.',
  },
  'memory.wal': {
    partitions: 6,
    retentionMs: undefined,
    compacted: true,
    owner: 'memory-sync',
    producers: ['memory-sync'],
    consumers: ['memory-replicator'],
    key: 'tenant:memory_id',
    ordered: true,
    content: true,
    summary: 'Every memory in its last version; what the memory backend has taken.',
  },
  'memory.recall.requests': {
    partitions: 6,
    retentionMs: hourMs,
    compacted: false,
    owner: 'memory-replicator',
    producers: ['conversation-worker', 'gateway', 'job-worker'],
    consumers: ['memory-replicator'],
    key: byRequest,
    ordered: true,
    content: true,
    summary: 'Questions to the memories of a tenant, each with a deadline.',
  },
  'memory.recall.results': {
    partitions: 6,
    retentionMs: hourMs,
    compacted: false,
    owner: 'memory-replicator',
    producers: ['memory-replicator'],
    consumers: ['conversation-worker', 'gateway', 'job-worker'],
    key: byRequest,
    ordered: true,
    content: true,
    summary: 'Their answers, in the partition that the asking instance named.',
  },
  'delegation.tasks': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'delegation-worker',
    producers: ['delegation-gateway', 'conversation-worker', 'delegation-worker'],
    consumers: ['delegation-worker'],
    key: byTask,
    ordered: true,
    content: true,
    summary: 'Tasks to carry out, to cancel, to give input to.',
  },
  'delegation.updates': {
    partitions: 6,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'delegation-worker',
    producers: ['delegation-worker'],
    consumers: ['delegation-gateway', 'conversation-worker', 'delegation-worker'],
    key: byTask,
    ordered: true,
    content: true,
    summary: 'What becomes of tasks. The gateway reads all, others those with their reply_to.',
  },
  'ui.notifications': {
    partitions: 3,
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'gateway',
    producers: ['delegation-worker', 'memory-sync', 'job-worker'],
    consumers: ['gateway'],
    key: 'tenant:notification',
    ordered: false,
    content: true,
    summary: 'What people should see although they did not ask for it.',
  },
  'jobs.commands': {
    partitions: 3,
    // Questions are worth nothing after their deadline, but a job that was answered with 202 must outlive a stop of its worker.
    retentionMs: 7 * dayMs,
    compacted: false,
    owner: 'job-worker',
    producers: ['gateway', 'job-worker'],
    consumers: [
      'job-worker',
      'gateway',
      'conversation-worker',
      'tool-executor',
      'memory-sync',
      'memory-replicator',
      'delegation-gateway',
      'delegation-worker',
    ],
    key: byRequest,
    ordered: true,
    content: true,
    summary: 'Jobs to run, questions about jobs, and upkeep that the owner of a table does for job-worker.',
  },
  'jobs.results': {
    partitions: 3,
    retentionMs: hourMs,
    compacted: false,
    owner: 'job-worker',
    producers: [
      'job-worker',
      'gateway',
      'conversation-worker',
      'tool-executor',
      'memory-sync',
      'memory-replicator',
      'delegation-gateway',
      'delegation-worker',
    ],
    consumers: ['gateway', 'job-worker'],
    key: byRequest,
    ordered: true,
    content: true,
    summary: 'Their answers, in the partition that the asking instance named.',
  },
};

/** The topic that the poison of `topic` goes to. */
export function deadLetterTopic(topic: SourceTopicName): DeadLetterTopicName {
  return `${topic}.dlq`;
}

function deadLetters(of: SourceTopicName): TopicDefinition {
  const { partitions, owner, consumers, key, content } = sources[of];
  return {
    name: deadLetterTopic(of),
    partitions,
    retentionMs: 30 * dayMs,
    compacted: false,
    owner,
    producers: consumers,
    consumers: [],
    key,
    ordered: false,
    content,
    maxMessageBytes: 4 * mebibyte, // the original bytes in text form, its headers and the reason must fit (delivery rule 3)
    summary: `Records of ${of} that no consumer can handle, with the reason.`,
  };
}

function source(name: SourceTopicName): TopicDefinition {
  return { name, maxMessageBytes: mebibyte, ...sources[name] };
}

/** Every topic of this release by name. `signalbox migrate` creates exactly these. */
export const topics: Readonly<Record<TopicName, TopicDefinition>> = Object.freeze({
  'conversation.inbound': source('conversation.inbound'),
  'conversation.outbound': source('conversation.outbound'),
  'tool.requests': source('tool.requests'),
  'tool.results': source('tool.results'),
  'tool.catalog': source('tool.catalog'),
  'turn.results': source('turn.results'),
  'memory.writes': source('memory.writes'),
  'memory.wal': source('memory.wal'),
  'memory.recall.requests': source('memory.recall.requests'),
  'memory.recall.results': source('memory.recall.results'),
  'delegation.tasks': source('delegation.tasks'),
  'delegation.updates': source('delegation.updates'),
  'ui.notifications': source('ui.notifications'),
  'jobs.commands': source('jobs.commands'),
  'jobs.results': source('jobs.results'),
  'conversation.inbound.dlq': deadLetters('conversation.inbound'),
  'conversation.outbound.dlq': deadLetters('conversation.outbound'),
  'tool.requests.dlq': deadLetters('tool.requests'),
  'tool.results.dlq': deadLetters('tool.results'),
  'tool.catalog.dlq': deadLetters('tool.catalog'),
  'turn.results.dlq': deadLetters('turn.results'),
  'memory.writes.dlq': deadLetters('memory.writes'),
  'memory.wal.dlq': deadLetters('memory.wal'),
  'memory.recall.requests.dlq': deadLetters('memory.recall.requests'),
  'memory.recall.results.dlq': deadLetters('memory.recall.results'),
  'delegation.tasks.dlq': deadLetters('delegation.tasks'),
  'delegation.updates.dlq': deadLetters('delegation.updates'),
  'ui.notifications.dlq': deadLetters('ui.notifications'),
  'jobs.commands.dlq': deadLetters('jobs.commands'),
  'jobs.results.dlq': deadLetters('jobs.results'),
});

/** All topics in the order of the table: the sources, then their dead letters. */
export const topicList: readonly TopicDefinition[] = Object.freeze(Object.values(topics));

export function isTopicName(name: unknown): name is TopicName {
  return typeof name === 'string' && Object.hasOwn(topics, name);
}

export function isSourceTopic(name: unknown): name is SourceTopicName {
  return isTopicName(name) && !name.endsWith('.dlq');
}

/** The topics that carry a schema, without the dead letters. */
export const sourceTopics: readonly SourceTopicName[] = sourceTopicNames;
