/** This service as headers, groups and spans name it. */
export const serviceName = 'memory-replicator';
