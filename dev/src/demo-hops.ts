interface Hop {
  readonly service: string;
  /** The span's name; any span of the service when left out. */
  readonly span?: string;
}

/**
 * What a message that recalls, calls a tool, delegates and is remembered leaves in its trace: every service, and each
 * record's way over Kafka.
 */
const hops: readonly Hop[] = [
  { service: 'gateway', span: 'POST /v1/session/message' },
  { service: 'gateway', span: 'publish conversation.inbound' },
  { service: 'conversation-worker', span: 'process conversation.inbound' },
  { service: 'conversation-worker', span: 'publish memory.recall.requests' },
  { service: 'memory-replicator', span: 'answer memory.recall.requests' },
  { service: 'memory-replicator', span: 'publish memory.recall.results' },
  { service: 'conversation-worker', span: 'process memory.recall.results' },
  { service: 'conversation-worker', span: 'publish tool.requests' },
  { service: 'tool-executor', span: 'process tool.requests' },
  { service: 'tool-executor', span: 'publish tool.results' },
  { service: 'conversation-worker', span: 'process tool.results' },
  { service: 'conversation-worker', span: 'publish delegation.tasks' },
  { service: 'delegation-worker', span: 'process delegation.tasks' },
  { service: 'delegation-worker', span: 'publish conversation.inbound' },
  { service: 'conversation-worker', span: 'publish turn.results' },
  { service: 'delegation-worker', span: 'process turn.results' },
  { service: 'delegation-worker', span: 'publish delegation.updates' },
  { service: 'conversation-worker', span: 'process delegation.updates' },
  { service: 'delegation-gateway', span: 'process delegation.updates' },
  { service: 'conversation-worker', span: 'publish conversation.outbound' },
  { service: 'gateway', span: 'process conversation.outbound' },
  { service: 'conversation-worker', span: 'publish memory.writes' },
  { service: 'memory-sync', span: 'process memory.writes' },
  { service: 'memory-sync', span: 'publish memory.wal' },
  { service: 'memory-replicator', span: 'process memory.wal' },
];

/** The hops that a tree as `signalbox trace` prints it does not hold. A row's relay may have published it: any service then. */
export function missingHops(tree: string): string[] {
  const lines = tree.split('\n').map((line) => line.toLowerCase());
  return hops
    .filter(({ service, span }) => {
      const relayed = span?.startsWith('publish ') === true;
      return !lines.some((line) => {
        const words = line.trim().split(/\s+/);
        const by = words[0] === service || (relayed && words[0] === 'outbox-sync');
        return by && (span === undefined || line.includes(span.toLowerCase()));
      });
    })
    .map(({ service, span }) => `${service}: ${span ?? 'any span'}`);
}
