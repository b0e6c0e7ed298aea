/** The services that the stack runs, and the ports they take when those are free. */
export const usualServicePorts = {
  gateway: 8010,
  'delegation-gateway': 8015,
  'conversation-worker': 8021,
  'tool-executor': 8022,
  'outbox-sync': 8023,
  'memory-sync': 8024,
  'memory-replicator': 8025,
  'delegation-worker': 8026,
  'job-worker': 8028,
} as const;

export type ServiceName = keyof typeof usualServicePorts;

/** In the order in which they are started: who a first message needs comes first. */
export const serviceNames: readonly ServiceName[] = [
  'gateway',
  'conversation-worker',
  'tool-executor',
  'memory-replicator',
  'delegation-gateway',
  'delegation-worker',
  'memory-sync',
  'outbox-sync',
  'job-worker',
];
